"""The one look at data the model has not seen: predictions, accuracies with intervals, and their files.

Taken once, with the averaged weights of the last step: nothing is chosen by these numbers, so they are honest.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.accuracy import Rate, accuracy, recall
from bench.dataset import Sample
from bench.interval import wilson

_NUM_RESAMPLES = 2000


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, *, scale: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Runs a network in evaluation mode.

    Args:
      model: (N, 3, S, S) float32 -> (N, C) logits.
      images: (N, S, S, 3) uint8 RGB.
      scale: (3, 1, 1) float32 factor from uint8 to the network.
      batch_size: Images per call.

    Returns:
      (N, C) float32 probabilities.
    """
    model.eval()
    probabilities = []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size]).to(scale.device)
        logits = model(batch.permute(0, 3, 1, 2).float() * scale)
        probabilities.append(torch.softmax(logits, dim=1).cpu().numpy())
    return np.concatenate(probabilities)


def measure(samples: Sequence[Sample], predictions: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy of labelled images.

    Args:
      samples: (N,) the images.
      predictions: (N,) names of the predicted classes.
      classes: All class names; those without an image are left out of the result.

    Returns:
      JSON-ready: `accuracy`, `by_class` (recall) and `by_group` with Wilson 95 % intervals, and
      `balanced_accuracy` with a bootstrap interval over the images of each class; each is {value, low, high, n}.
    """
    y_true = np.array([classes.index(sample.label) for sample in samples])
    y_pred = np.array([classes.index(name) for name in predictions])
    groups = np.array([sample.group for sample in samples])

    def overall(chosen: np.ndarray) -> dict[str, Any]:
        return _with_interval(accuracy(y_true[chosen], y_pred[chosen], num_classes=len(classes)))

    recalls = recall(y_true, y_pred, num_classes=len(classes))
    found = {name: rate for name, rate in zip(classes, recalls, strict=True) if rate.n}
    counts = np.array([rate.n for rate in found.values()])
    shares = np.array([rate.successes for rate in found.values()]) / counts
    # Resampling the hits and misses of one class is a binomial draw.
    resampled = np.random.default_rng(0).binomial(counts, shares, size=(_NUM_RESAMPLES, len(counts))) / counts
    low, high = np.percentile(resampled.mean(axis=1), [2.5, 97.5])
    return {
        "accuracy": overall(np.ones(len(samples), bool)),
        "balanced_accuracy": _rounded(float(shares.mean()), (float(low), float(high)), len(samples)),
        "by_class": {name: _with_interval(rate) for name, rate in found.items()},
        "by_group": {str(group): overall(groups == group) for group in np.unique(groups)},
    }


def _with_interval(rate: Rate) -> dict[str, Any]:
    return _rounded(rate.value, wilson(rate.successes, rate.n), rate.n)


def _rounded(value: float | None, interval: tuple[float, float] | None, n: int) -> dict[str, Any]:
    low, high = interval or (None, None)
    values = {"value": value, "low": low, "high": high}
    return {**{name: None if x is None else round(x, 4) for name, x in values.items()}, "n": n}


def write_predictions(
    path: Path, samples: Sequence[Sample], probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes one CSV row per held-out image: path, group, cluster, label, prediction, a probability per class."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "group", "cluster", "label", "prediction", *(f"prob_{name}" for name in classes)])
        for sample, row in zip(samples, probabilities, strict=True):
            prediction = classes[int(row.argmax())]
            shares = (f"{p:.6f}" for p in row)
            writer.writerow([sample.path, sample.group, sample.cluster, sample.label, prediction, *shares])
