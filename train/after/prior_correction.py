"""One number times the log shares of the classes, added to the logits of a trained network.

The number says how much more the network shall expect the common classes. It tunes the accuracy: say so beside every
figure made with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .temperature import check_arrays

_TAUS = sorted((np.arange(-64, 65) / 16).tolist(), key=abs)
"""At 1 a network that was taught all classes equally often expects them as often as they come, at -1 one that was
taught them as they come expects them equally often; a head that is too sure of itself needs more."""


@dataclass(frozen=True)
class PriorCorrection:
    """The number, and what it is worth."""

    tau: float  # 0 changes nothing; fitted on all images
    offsets: np.ndarray  # (C,) float64, sum 0: tau times the log shares of the classes, to be added to the logits
    before: float  # accuracy of the predictions as they were
    after: float  # where each fold is predicted with the number fitted on the others: the honest figure


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
    check_arrays(x, labels, folds)
    if len(names := np.unique(folds)) < 2:
        raise ValueError(f"folds: got {names.tolist()}, expected two at least: each is predicted by what others give")
    is_right = np.empty(len(x), bool)
    for name in names:
        own = folds == name
        _, offsets = _best(x[~own], y[~own], l2)
        is_right[own] = (x[own] + offsets).argmax(-1) == y[own]
    tau, offsets = _best(x, y, l2)
    return PriorCorrection(tau, offsets, float((x.argmax(-1) == y).mean()), float(is_right.mean()))


def _best(x: np.ndarray, y: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    """The number and its (C,) float64 offsets; of equally good ones the smallest."""
    support = np.bincount(y, minlength=x.shape[1])
    log_shares = np.log(np.maximum(support, 1))
    log_shares[support == 0] = log_shares[support > 0].mean()  # of an absent class nothing is known: it stays between
    log_shares -= log_shares.mean()
    price = l2 * float(np.square(log_shares).sum())

    def value(tau: float) -> float:
        return float(((x + tau * log_shares).argmax(-1) == y).mean()) - price * tau**2

    tau: float = max(_TAUS, key=value)
    return tau, np.asarray(tau * log_shares)
