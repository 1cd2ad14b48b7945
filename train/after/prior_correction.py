"""Prior correction: one number times the log shares of the classes, added to the logits of a finished run.

The number, tau, says how much more a network shall expect the common classes. It is fitted on held-out predictions of
runs of other folds. It tunes the accuracy: say so beside every figure made with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.dataset import DatasetError, Sample, as_text, index
from bench.results.join import Pairs, join
from edge.predictions import read

from .. import checkpoint as checkpoints
from ..checkpoint import OFFSETS, Checkpoint, CheckpointError
from ..config import TrainConfig
from ..data.folds import make_folds
from ..leakage.checks import OverlapError
from ..loop.run import PREDICTIONS
from .derived_run import PRIOR, write_derived

_TAUS = sorted((np.arange(-64, 65) / 16).tolist(), key=abs)
"""At 1 a network that was taught all classes equally often expects them as often as they come, at -1 one that was
taught them as they come expects them equally often; a head that is too sure of itself needs more."""


@dataclass(frozen=True)
class PriorCorrection:
    """The number, and what it is worth."""

    tau: float
    """0 changes nothing. Fitted on all images."""
    offsets: np.ndarray
    """(C,) float64, sum 0: tau times the log shares of the classes, to be added to the logits."""
    before: float
    """Accuracy of the predictions as they were."""
    after: float
    """Accuracy where each fold is predicted with the number fitted on the others: the honest figure."""


def fit_prior(
    log_probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, l2: float = 1e-3
) -> PriorCorrection:
    """Fits the number that makes most answers right.

    Args:
      log_probabilities: (N, C) float64, finite. OUT-OF-FOLD, of networks that have not seen the image: a network is so
        sure of its own training images that nothing moves them.
      labels: (N,) integer, 0 to C - 1. A class without images keeps its place among the others.
      folds: (N,) integer. Of the nested estimate: `after` is measured on folds that the number is not fitted on.
      l2: Price of the squared offsets, in units of the accuracy. Where nothing is to be gained, noise gets fitted.

    Raises:
      ValueError: one fold, other shapes, or values that are not finite.

    Source: Menon et al., Long-tail learning via logit adjustment, 2020, arXiv 2007.07314, section 4.1. Differs: tau is
    fitted to the accuracy, not set for the balanced one.
    """
    x, y = log_probabilities, labels.astype(np.int64)
    if x.ndim != 2 or not np.isfinite(x).all() or {labels.shape, folds.shape} != {(len(x),)}:
        shapes = f"{x.shape}, {labels.shape}, {folds.shape}"
        raise ValueError(f"got arrays {shapes}, expected one of two axes and finite numbers, the others (N,)")
    if len(names := np.unique(folds)) < 2:
        raise ValueError(f"folds: got {names.tolist()}, expected two at least: each is predicted by what others give")
    is_right = np.empty(len(x), bool)
    for name in names:
        own = folds == name
        _, offsets = _best(x[~own], y[~own], l2)
        is_right[own] = (x[own] + offsets).argmax(-1) == y[own]
    tau, offsets = _best(x, y, l2)
    return PriorCorrection(tau, offsets, float((x.argmax(-1) == y).mean()), float(is_right.mean()))


def correct(
    root: Path, run: Path, others: Sequence[Path], out: Path, *, label_column: str, group_column: str = "group"
) -> dict[str, Any]:
    """Fits the number on other runs' held-out predictions, adds it to the last layer of `run`, and measures anew.

    Args:
      root: The data set.
      run: A finished run.
      others: Finished runs of other folds than it holds out, whose figures they would flatter.
      out: Folder of the new run.
      label_column: The manifest's class column.
      group_column: The manifest's group column.

    Returns:
      What prior.json in the new folder says: `tau`, the `offsets` of the `classes`, the accuracy `before` and `after`
      (nested: on no cluster that the number was fitted on), and what it was fitted on.

    Raises:
      CheckpointError: no finished run, other classes, a cosine head, or a run that is corrected already.
      DatasetError: an image held out by two runs, or of a class that they do not know, or too few images to fit.
      OverlapError: one of the others predicts what `run` is measured on.
    """
    state, states = checkpoints.load(run), [checkpoints.load(other) for other in others]
    _check_correctable(run, state)
    if state.hold_out is not None:
        for other, its in zip(others, states, strict=True):
            _check_apart(other, its, run, state)
    samples = index(root, label_column=label_column, group_column=group_column)
    pairs = held_out_pairs([as_text(sample) for sample in samples], others, states, classes=state.classes)
    found = _fit_on_pairs([pair for part in pairs for pair in part], state.classes, name=str(others[0]))
    leaky = [path.name for path, one in zip((run, *others), (state, *states), strict=True) if one.leaky]
    told = {
        "classes": state.classes,
        "tau": found.tau,
        "offsets": [round(float(value), 6) for value in found.offsets],
        "before": round(found.before, 6),
        "after": round(found.after, 6),
        "images": sum(map(len, pairs)),
        "folds": [one.hold_out for one in states],
        "folds_sha256": sorted({str(one.folds_sha256) for one in states}),
        "note": "fitted on out-of-fold predictions to raise the accuracy; `after` is nested",
        **({"leaky": True} if leaky else {}),
    }
    text = json.dumps(told, ensure_ascii=False, indent=1) + "\n"
    weights = {**state.weights}
    weights["head.fc.bias"] = weights["head.fc.bias"] + torch.tensor(told["offsets"]).to(weights["head.fc.bias"])
    derived = replace(
        state,
        result=weights,
        sources={**state.sources, OFFSETS: hashlib.sha256(text.encode()).hexdigest()},
        recipe=f"{state.recipe} with a prior correction (tau {found.tau:g})",
    )
    write_derived(out, derived, run, root, samples, leaky=leaky, more={PRIOR: text})
    return told


def held_out_pairs(
    samples: Sequence[Sample], runs: Sequence[Path], states: Sequence[Checkpoint], *, classes: list[str]
) -> list[Pairs]:
    """For each run the images it held out with its predictions.

    Raises:
      CheckpointError: a run without held-out predictions, or of other classes.
      DatasetError: an image held out by two runs.
      EdgeError: predictions for an image that the data set does not have.
    """
    parts: list[Pairs] = []
    seen = set[str]()
    for run, state in zip(runs, states, strict=True):
        if state.classes != classes or state.metrics is None or not (run / PREDICTIONS).exists():
            raise CheckpointError(f"{run}: no held-out predictions of {', '.join(classes)}, expected a finished run's")
        pairs = join(samples, read(run / PREDICTIONS).rows, subset=True)
        paths = {sample.path for sample, _ in pairs}
        if twice := seen & paths:
            text = "is held out by two of the runs, expected runs of different folds"
            raise DatasetError(f"{run}: {min(twice)} {text}")
        seen |= paths
        parts.append(pairs)
    return parts


def _check_correctable(run: Path, state: Checkpoint) -> None:
    if TrainConfig.from_dict(state.config).model.head != "linear":
        raise CheckpointError(
            f"{run}: has cosines for logits, which use multiplies by the length of the feature: no offset fits all; "
            "expected a linear head (edge-train refit makes one)"
        )
    if OFFSETS in state.sources:
        raise CheckpointError(f"{run}: has a prior correction already, expected the run that it was added to")


def _check_apart(other: Path, its: Checkpoint, run: Path, state: Checkpoint) -> None:
    is_same_file = its.folds_sha256 == state.folds_sha256
    if its.hold_out == state.hold_out or not is_same_file:
        got = f"fold {its.hold_out}" + ("" if is_same_file else " of another folds file")
        raise OverlapError(
            f"{other}: predicts the held-out images of {got}; {run} holds out {state.hold_out}: expected runs of the "
            "other folds alone"
        )


def _fit_on_pairs(pairs: Pairs, classes: list[str], *, name: str) -> PriorCorrection:
    """`fit_prior` on labelled predictions, with folds that cut no cluster."""
    chosen = [sample for sample, _ in pairs]
    if unknown := sorted({sample.label for sample in chosen} - {*classes}):
        expected = f"expected one of {', '.join(classes)} (see --label)"
        raise DatasetError(f"{name}: got an image of the class {unknown[0]!r}, {expected}")
    probabilities = np.array([prediction.probabilities for _, prediction in pairs], np.float64)
    fold_of = make_folds(chosen)
    return fit_prior(
        np.log(np.maximum(probabilities, 1e-12)),
        np.array([classes.index(sample.label) for sample in chosen]),
        np.array([fold_of[sample.path] for sample in chosen]),
    )


def _best(x: np.ndarray, y: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    """The number and its (C,) float64 offsets; of equally good ones the smallest."""
    log_shares = _log_shares(y, x.shape[1])
    price = l2 * float(np.square(log_shares).sum())

    def value(tau: float) -> float:
        return float(((x + tau * log_shares).argmax(-1) == y).mean()) - price * tau**2

    tau: float = max(_TAUS, key=value)
    return tau, np.asarray(tau * log_shares)


def _log_shares(y: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) float64 logarithms of the classes' shares, less their mean."""
    support = np.bincount(y, minlength=num_classes)
    log_shares = np.log(np.maximum(support, 1))
    log_shares[support == 0] = log_shares[support > 0].mean()  # of an absent class nothing is known: it stays between
    return np.asarray(log_shares - log_shares.mean())
