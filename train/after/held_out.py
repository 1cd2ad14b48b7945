"""The one look at data the model has not seen: predictions, accuracies with intervals, and their files.

Taken once, with the averaged weights of the last step: nothing is chosen by these numbers, so they are honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.dataset import NOT_STATED, Sample
from bench.metrics.contest import PROFILES
from bench.metrics.evaluation import Setting
from bench.results import build
from edge.predictions import Layout, Prediction, path_text

from ..networks.head import to_linear
from ..networks.network import Network
from .temperature import describe_fit

_NUM_DRAWS = 1000
MIN_CLUSTERS = 50


@torch.no_grad()
def embed(model: Network, images: np.ndarray, *, scale: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """(N, S, S, 3) uint8 RGB, times a (3, 1, 1) float32 scale -> (N, D) float32 features, on the CPU.

    The network is in training form; it is put in evaluation mode, and stays there.
    """
    model.eval()
    features = []
    for start in range(0, len(images), batch_size):
        batch = torch.tensor(images[start : start + batch_size], device=scale.device)  # a copy: a cache is read-only
        features.append(model.embed(batch.permute(0, 3, 1, 2).contiguous().float() * scale).cpu())
    return torch.cat(features)


@torch.no_grad()
def fit_temperature_of(
    model: Network, features: torch.Tensor, samples: Sequence[Sample], classes: Sequence[str]
) -> dict[str, Any]:
    """`describe_fit` for the exported form's logits of held-out images, given by their (N, D) features.

    Empty where there are too few clusters to say what the temperature is worth.
    """
    if len({sample.cluster for sample in samples}) < MIN_CLUSTERS:
        return {}
    logits = to_linear(model.head)(features).double().numpy()
    return _rounded(describe_fit(logits, samples, classes))


def measure(samples: Sequence[Sample], predictions: Sequence[Prediction], classes: Sequence[str]) -> dict[str, Any]:
    """Accuracies of N labelled images, as `edge-bench score` gives them.

    Returns:
      JSON-ready: `accuracy`, `balanced_accuracy`, `by_class` (recall) and `by_group`, each {value, low, high, n} with
      95 % intervals that count clusters, not images. A class without images is left out.
    """
    # Of SPD, which is not among these: any group, but that of the images whose group is not stated.
    reference = min({sample.group for sample in samples} - {NOT_STATED}, default="")
    setting = Setting(PROFILES["esfair2023"], reference, draws=_NUM_DRAWS)
    found = build.metrics(list(zip(samples, predictions, strict=True)), list(classes), setting)
    parts = {
        key: {name: rates[rate] for name, rates in found[key].items() if rates[rate]["n"]}
        for key, rate in (("by_class", "recall"), ("by_group", "accuracy"))
    }
    return _rounded({"accuracy": found["accuracy"], "balanced_accuracy": found["balanced_accuracy"], **parts})


def _rounded(metric: dict[str, Any]) -> dict[str, Any]:
    """Numbers, also of metrics within, to four decimals."""
    return {
        name: _rounded(value) if isinstance(value, dict) else round(value, 4) if isinstance(value, float) else value
        for name, value in metric.items()
    }


def to_predictions(samples: Sequence[Sample], probabilities: np.ndarray, classes: Sequence[str]) -> list[Prediction]:
    """(N, C) float32 probabilities of (N,) images as rows of a predictions file."""
    rows = []
    for sample, row in zip(samples, probabilities, strict=True):
        best = int(row.argmax())
        rows.append(Prediction(path_text(sample.path), classes[best], best, float(row[best]), probabilities=row))
    return rows


def encode_predictions(predictions: Sequence[Prediction], classes: Sequence[str]) -> bytes:
    """A predictions file (`edge-predictions/1`, CSV), which `edge-bench score --subset` reads."""
    layout = Layout(tuple(classes), probs=True, timing=False)
    return layout.header({}) + b"".join(layout.encode(row) for row in predictions)
