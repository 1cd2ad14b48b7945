"""What int8 costs: a table of schemes on evaluation images, and the layers that do the most harm."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import onnxruntime as ort

from .calibrate import session_of
from .quantize import Quantizer, Scheme, convolutions

VARIANTS: dict[str, Scheme] = {
    "nearest, minmax, per tensor": Scheme("nothing", "minmax", False, False, False),
    "nearest, minmax": Scheme("nothing", "minmax", True, False, False),
    "nearest, mse": Scheme("nothing", "mse", True, False, False),
    "nearest, mse, biases": Scheme("nothing", "mse", True, False, True),
    "weights equalised, nearest, minmax, per tensor": Scheme("weights", "minmax", False, False, False),
    "weights equalised, nearest, minmax": Scheme("weights", "minmax", True, False, False),
    "weights equalised, nearest, mse, biases": Scheme("weights", "mse", True, False, True),
    "joint, mse": Scheme("nothing", "mse", True, True, False),
    "joint, mse, biases": Scheme("nothing", "mse", True, True, True),
    "weights equalised, joint, mse, biases, per tensor": Scheme("weights", "mse", False, True, True),
    "weights equalised, joint, mse, biases": Scheme("weights", "mse", True, True, True),
    "activations equalised, nearest, percentile-99.999, biases": Scheme(round_jointly=False),
    "activations equalised, joint, percentile-99.999": Scheme(correct_biases=False),
    "activations equalised, joint, minmax, biases": Scheme("activations", "minmax", True, True, True),
    "activations equalised, joint, percentile-99.99, biases": Scheme("activations", "percentile-99.99"),
    "activations equalised, joint, entropy, biases": Scheme("activations", "entropy"),
    "activations equalised, joint, mse, biases": Scheme("activations", "mse"),
    "activations equalised, joint, percentile-99.999, biases": Scheme(),
}
"""What `search_variants` tries unless told otherwise."""

_TIMED_IMAGES = 100
_BATCH = 16


def search_variants(
    quantizer: Quantizer,
    images: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    variants: Mapping[str, Scheme] = VARIANTS,
) -> list[dict[str, Any]]:
    """Measures schemes side by side.

    Args:
      quantizer: Of the model.
      images: (N, S, S, 3) uint8 RGB images to evaluate on, not used for anything else.
      labels: (N,) class indices.
      groups: (N,) group of each image.
      variants: Schemes by name.

    Returns:
      One row per file, first the float model's: `name`, `scheme` (None for float), `size_mb` (10^6 bytes), `agreement`
      (share of images with the float model's answer), `sqnr_db` (None for float), `accuracy`, `worst_group`,
      `worst_group_accuracy`, `ms` (median per image, one thread, all files in turns) and `time_ratio` to the
      float model's.

    Raises:
      ExportError: a variant cannot be made.
    """
    model = quantizer.model
    files = {"float": model, **{name: quantizer(scheme) for name, scheme in variants.items()}}
    sessions = [session_of(file) for file in files.values()]
    times = _interleaved_ms(sessions, images)
    reference = logits_of(sessions[0], images)
    rows = []
    for (name, file), session, ms in zip(files.items(), sessions, times, strict=True):
        logits = logits_of(session, images)
        is_right = logits.argmax(axis=1) == labels
        by_group = {g: float(is_right[[group == g for group in groups]].mean()) for g in sorted(set(groups))}
        worst = min(by_group, key=lambda g: by_group[g])
        row = {
            "name": name,
            "scheme": asdict(variants[name]) if name in variants else None,
            "size_mb": len(file.SerializeToString()) / 1e6,
            "agreement": agreement(reference, logits),
            "sqnr_db": sqnr_db(reference, logits) if file is not model else None,
            "accuracy": float(is_right.mean()),
            "worst_group": worst,
            "worst_group_accuracy": by_group[worst],
            "ms": ms,
            "time_ratio": ms / times[0],
        }
        rows.append(row)
    return rows


def sensitivity(quantizer: Quantizer, images: np.ndarray, scheme: Scheme = Scheme()) -> list[tuple[str, float]]:
    """The convolutions by what leaving them float would gain.

    Args:
      quantizer: Of the model.
      images: (N, S, S, 3) uint8 RGB, not those to report results on.
      scheme: Under which all others stay quantised.

    Returns:
      (name, gain in dB of the logits' SQNR), the largest gain first. The classifier, float already, is not among them.
    """
    reference = logits_of(session_of(quantizer.model), images)

    def measure(tried: Scheme) -> float:
        return sqnr_db(reference, logits_of(session_of(quantizer(tried)), images))

    base = measure(scheme)
    names = [name for name in convolutions(quantizer.model)[:-1] if name not in scheme.exclude]
    gains = [(name, measure(replace(scheme, exclude=(*scheme.exclude, name))) - base) for name in names]
    return sorted(gains, key=lambda gain: -gain[1])


def exclude_until(
    quantizer: Quantizer, images: np.ndarray, target: float, scheme: Scheme = Scheme(), *, max_layers: int = 4
) -> Scheme:
    """Leaves the most harmful layers float, one after the other, until the answers agree.

    Args:
      quantizer: Of the model.
      images: (N, S, S, 3) uint8 RGB, not those to report results on.
      target: Share of them that must get the float model's answer.
      scheme: To start from.
      max_layers: Largest number of layers to leave float.

    Returns:
      The scheme with as few layers left float as reach the target, or the one that agrees best where none does.
    """
    reference = logits_of(session_of(quantizer.model), images)
    order: list[str] | None = None
    best, best_agreement = scheme, -1.0
    for count in range(max_layers + 1):
        if count and order is None:
            order = [name for name, _ in sensitivity(quantizer, images, scheme)]
        tried = replace(scheme, exclude=(*scheme.exclude, *(order or [])[:count]))
        agreed = agreement(reference, logits_of(session_of(quantizer(tried)), images))
        if agreed > best_agreement:
            best, best_agreement = tried, agreed
        if best_agreement >= target:
            break
    return best


def agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of images with the same answer; both (N, C)."""
    return float((reference.argmax(axis=1) == logits.argmax(axis=1)).mean())


def sqnr_db(reference: np.ndarray, logits: np.ndarray) -> float:
    """Energy of the float logits over that of the difference, both (N, C), in decibels."""
    noise = float(np.square(reference.astype(np.float64) - logits).sum())
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))


def logits_of(session: ort.InferenceSession, images: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 RGB -> (N, C) float32."""
    parts = range(0, len(images), _BATCH)
    return np.concatenate([session.run(["logits"], {"images": images[i : i + _BATCH]})[0] for i in parts])


def _interleaved_ms(sessions: Sequence[ort.InferenceSession], images: np.ndarray) -> list[float]:
    """Median milliseconds per image of each session; each image goes through all before the next."""
    taken: list[list[float]] = [[] for _ in sessions]
    for i in range(_TIMED_IMAGES):
        image = images[i % len(images)][None]
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            session.run(["logits"], {"images": image})
            times.append((time.perf_counter() - start) * 1000)
    return [float(np.median(times)) for times in taken]
