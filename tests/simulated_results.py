"""Results files of models that do not exist, on images that do not exist: for docs/report.md and the report's tests.

    python tests/simulated_results.py build/example

The groups have the sizes of a fold of the contest and unlike mixes of classes; a model is right with a probability that
depends on the class, and a little on the group, and says how sure it is. Everything follows from the seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.dataset import Sample
from bench.metrics import contest
from bench.metrics.evaluation import Frame, Observations, Setting
from bench.results import build, document
from bench.robustness.changes import CHANGES
from bench.robustness.measure import measure
from edge.predictions import Prediction

CLASSES = ["BCC", "BKL", "MEL", "NV", "unknown", "VASC"]
SIZES = {"G6": 711, "G7": 468, "G8": 655, "G10": 399}
MIX = {  # shares of the classes, in their order
    "G6": (0.07, 0.06, 0.09, 0.18, 0.594, 0.006),
    "G7": (0.18, 0.14, 0.20, 0.26, 0.207, 0.013),
    "G8": (0.10, 0.08, 0.13, 0.18, 0.501, 0.009),
    "G10": (0.11, 0.09, 0.16, 0.16, 0.475, 0.005),
}
RECALLS = {
    "small": ((0.74, 0.66, 0.68, 0.78, 0.95, 0.60), {"G7": -0.06, "G8": -0.01}),
    "large": ((0.84, 0.77, 0.78, 0.86, 0.96, 0.75), {"G7": -0.02}),
    "levelled": ((0.77, 0.69, 0.71, 0.80, 0.90, 0.62), {"G6": -0.05, "G8": -0.03}),
}
"""Model -> recall of each class, and what is added to it in a group."""
SECONDS_PER_100 = {"small": 3.1, "large": 14.8}


def pairs(
    model: str = "small", *, sizes: dict[str, int] = SIZES, seed: int = 0, probabilities: bool = True
) -> list[tuple[Sample, Prediction]]:
    """Samples with the model's predictions; the samples are the same for all models."""
    rng = np.random.default_rng(seed)
    recalls, added = RECALLS[model]
    model_rng = np.random.default_rng([seed, list(RECALLS).index(model)])
    found = []
    for group, size in sizes.items():
        labels = rng.choice(len(CLASSES), size, p=MIX.get(group, MIX["G10"]))
        for i, label in enumerate(labels.tolist()):
            is_right = model_rng.random() < recalls[label] + added.get(group, 0)
            others = [c for c in range(len(CLASSES)) if c != label]
            guess = label if is_right else int(model_rng.choice(others))
            sure = float(model_rng.beta(9, 1.6) if is_right else model_rng.beta(4, 3))
            rest = model_rng.dirichlet(np.ones(len(CLASSES) - 1)) * (1 - max(sure, 0.35))
            p = np.insert(rest, guess, max(sure, 0.35)).astype(np.float32)
            guess = int(p.argmax())
            path = f"{group}/{CLASSES[label]}/{i}.jpg"
            found.append((
                Sample(path, CLASSES[label], group, path),
                Prediction(path, CLASSES[guess], guess, float(p[guess]), probabilities=p if probabilities else None),
            ))
    return found


def result(
    model: str = "small", *, draws: int = 2000, with_latency: bool = True, with_robustness: bool = False, **changes: Any
) -> dict[str, Any]:
    """What `edge-bench score`, or `edge-bench robustness`, would write of them."""
    setting = Setting(contest.PROFILES["esfair2023"], "G10", malignant=("BCC", "MEL"), draws=draws)
    found = pairs(model, **changes)
    made = {
        "schema": document.SCHEMA,
        "data": {
            "name": "simulated", "label_column": "class", "group_column": "group", "split": None,
            "samples": len(found), "left_out": 0,
        },
        "predictions": {
            "schema": "edge-predictions/1", "model_sha256": 64 * "0", "classes": CLASSES,
            "model": {
                "file": f"{model}.onnx", "bytes": 3_000_000, "license": "none: there is no such model",
                "model": {"variant": "simulated"}, "training": {"data": "nothing"},
            },
            "preprocess": {"size_px": 128, "resize": "crop"},
            "versions": {"fairedge": "simulated"},
        },
        "errors": {"policy": "wrong", "images": 0},
        **build.metrics(found, CLASSES, setting),
        "gates": [],
    }
    if with_robustness:
        made["robustness"] = robustness(found, setting)
    if with_latency and model in SECONDS_PER_100:
        build.add_latency(made, latency(SECONDS_PER_100[model]))
    return made


def robustness(found: list[tuple[Sample, Prediction]], setting: Setting) -> dict[str, Any]:
    """What `edge-bench robustness` would add to them, of three kinds of change; some answers become other ones."""
    changes = [change for change in CHANGES if change.kind in ("border-edge", "turn", "exposure")]
    rng = np.random.default_rng(0)
    clean = np.array([prediction.label_index for _, prediction in found])
    labels = np.tile(clean[:, None], 1 + len(changes))
    for k in range(1, labels.shape[1]):
        is_other = rng.random(len(clean)) < 0.02 * k
        labels[is_other, k] = rng.integers(0, len(CLASSES), is_other.sum())
    confidences = rng.uniform(0.4, 1, labels.shape).astype(np.float32)
    columns = ([getattr(sample, name) for sample, _ in found] for name in ("label", "group", "cluster"))
    label, group, cluster = columns
    data = Observations.of(
        label, [CLASSES[i] for i in clean], group, cluster, classes=CLASSES, reference=setting.reference
    )
    part = measure(labels, confidences, changes, data, Frame(data.counts, data.groups, setting))
    samples = {change.name: labels[:, k].tolist() for k, change in enumerate(changes, start=1)}
    return {"model": "simulated.onnx", "seen": 0, **part, "samples": samples, "remarks": ["these are simulated"]}


def latency(seconds_per_100: float, *, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `edge-bench latency` would write."""
    rng = np.random.default_rng(0)
    per_image = 40 * seconds_per_100  # of four workers
    shares = {"read": 0.02, "decode": 0.62, "resize": 0.05, "infer": 0.25, "post and idle": 0.06}
    walls = (seconds_per_100 * (1 + 0.02 * rng.standard_normal(10))).tolist()
    sizes = {"small": (2, 0.1), "medium": (38, 0.6), "large": (60, 1.4)}
    return {
        "model": {"name": "simulated", "sha256": 64 * "0"},
        "latency": {
            "seconds_per_100": seconds_per_100, "score": 1 - seconds_per_100 / 100,
            "samples": {"wall_s": walls, "cpu_s": [4 * wall for wall in walls], "bound_cpu_s": walls},
            "spread": (max(walls) - min(walls)) / float(np.median(walls)),
            "images": 100, "scaled_to_100": False, "unusable": [],
            "protocol": {"sample": 100, "runs": 10, "seed": 0, "workers": 4, "batch_size": 4},
            "first_result_s": seconds_per_100 / 50,
            "stages_ms": {name: {"per_image": share * per_image, "share": share} for name, share in shares.items()},
            "by_size": {
                name: {"images": n, "p50_ms": k * per_image, "p90_ms": 1.5 * k * per_image, "p99_ms": 2 * k * per_image}
                for name, (n, k) in sizes.items()
            },
            "ratio_to_bound": {name: {"median": 1.05, "low": 1.02, "high": 1.08} for name in ("wall", "cpu")},
        },
        "machine": {"before": {"board": "no board (simulated)", "usable_cores": 4}},
        "valid": not reasons,
        "reasons": list(reasons),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECALLS:
        document.write_json(folder / f"{name}.json", result(name))
