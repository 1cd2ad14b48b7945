"""Evidence of models that do not exist, on images that do not exist."""

import json
from dataclasses import replace

import numpy as np

from bench.dataset import Sample
from research import evidence
from research.evidence import Evidence, RunRecord

CLASSES = ["ash", "birch", "Cedar"]


def samples_of(n=240):
    """Classes and three groups in turn, the last of them small; two images per cluster, in one fold."""
    found = []
    for i in range(n):
        group = "g3" if i % 20 >= 18 else f"g{i // 2 % 2 + 1}"
        label = CLASSES[(i + i // 7) % 3]
        found.append(Sample(f"{group}/{label}/{i}.jpg", label, group, f"patient{i // 2}"))
    return found


def evidence_of(samples, configuration="plain", *, seed=0, skill=1.0, num_folds=2, temperature=None, **changes):
    """Probabilities that know the label the better the more skill they have."""
    rng = np.random.default_rng([seed, round(10 * skill)])
    labels = np.array([CLASSES.index(sample.label) for sample in samples])
    logits = rng.normal(size=(len(samples), 3)) + skill * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    folds = np.arange(len(samples)) // 2 % num_folds
    found = Evidence(
        configuration=configuration,
        seed=seed,
        data="simulated",
        label_column="class",
        classes=CLASSES,
        command="nothing was run",
        config=None,
        offsets=None,
        runs=[RunRecord(fold, int((folds == fold).sum()), temperature=temperature) for fold in range(num_folds)],
        paths=[sample.path for sample in samples],
        folds=folds,
        ppm=evidence.to_ppm(p, p.argmax(1)),
    )
    return replace(found, **changes)


def folder_of(path, samples, several, **protocol):
    """A folder with all of these and a protocol that names them."""
    for one in several:
        evidence.write(path, samples, one, force=False)
    names = list(dict.fromkeys(one.configuration for one in several))
    values = {"reference": None, "exclude": [], "mask": [], "configurations": names, "differences": [], "coverage": []}
    (path / "protocol.json").write_text(json.dumps(values | protocol))
    return path
