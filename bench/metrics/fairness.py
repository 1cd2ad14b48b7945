"""How far apart the groups are: every parity metric of the contest, of the field and of the papers.

Every metric gives its overall value and what each group adds to it, because the one without the other misleads. All
take floats whose last axes are the groups, `acc` (..., G), or groups and classes, `rates` (..., G, C), and keep the
axes before: the formula that scores a model is the same line of code that a bootstrap runs on thousands of data sets.

NaN stands for "not defined" and becomes null in a results file: a group without images is left out; a cell of group
and class without images has no recall, and a class with fewer than two such cells is left out; a class that nobody
predicts has no ratio of selection rates. With fewer than two groups nothing is defined.

Letters (N, H, Q, acc) are those of `bench.metrics.counts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from .counts import (
    accuracies,
    accuracy,
    false_positive_rates,
    hits,
    if_two,
    largest,
    mean_defined,
    ratio,
    selection_rates,
    smallest,
    true_positive_rates,
)

MIN_CELL = 10
"""Images a cell of group and class needs before its recall enters the headline: one image gives a recall of 0 or 1."""


@dataclass(frozen=True)
class Parity:
    """A metric of groups compared with each other."""

    overall: np.ndarray
    """(...) float."""
    by_group: np.ndarray
    """(..., G) float. What each group contributes; the docstring of the metric says what that is."""
    by_class: np.ndarray | None = None
    """(..., C) float. The same for one class at a time, where the metric is made of classes."""


# Parity of accuracy


def spd_accuracy(acc: np.ndarray, *, reference: int) -> Parity:
    """The contest's SPD: mean over ALL groups of |acc_g - acc_ref|. 0 is fair; `by_group` is acc_g - acc_ref.

    The reference group's own 0 is in the divisor: with four groups it is 3/4 of the mean gap of the other three. A
    group without images is not; without images of the reference nothing is defined.

    Source: ESFair 2023, sample code, test.py (commit 882a2b6), where the reference is always G10.
    Differs: from the SPD of the literature and fairlearn's demographic_parity_difference, which compare selection
    rates (`spd_selection`).
    """
    difference = acc - acc[..., reference, None]
    return Parity(if_two(mean_defined(np.abs(difference)), acc), difference)


def u_l1(acc: np.ndarray, *, accuracy: np.ndarray) -> Parity:
    """Unfairness score U = sum_g |acc_g - acc|, the terms `by_group`. 0 is fair.

    `accuracy` (...) is over all images of these groups (micro), not the mean of the groups.

    Source: Sheng et al., FaHaNa, arXiv 2202.11317; BiaslessNAS, arXiv 2407.13896, whose printed values
    (.2264, .1514) follow from its group accuracies.
    """
    distance = np.abs(acc - accuracy[..., None])
    return Parity(if_two(np.nansum(distance, -1), acc), distance)


def gap(acc: np.ndarray) -> Parity:
    """U = max_g acc_g - min_g acc_g. 0 is fair; `by_group` is what the group lacks to the best.

    Source: HeViFa, Fast and fair medical AI on the edge (2023), U = |acc_light - acc_dark|, here for any number of
    groups; fairlearn's MetricFrame.difference().
    """
    best = largest(acc)
    return Parity(if_two(best - smallest(acc), acc), best[..., None] - acc)


def pqd(acc: np.ndarray) -> Parity:
    """Predictive quality disparity: PQD = min_g acc_g / max_g acc_g. 1 is fair; `by_group` is acc_g / max acc.

    Not defined where every group has accuracy 0. For two groups it is also what BiaslessNAS calls disparate impact.

    Source: Du et al., FairDisCo, arXiv 2208.10013; HeViFa (2023), whose own two Fitzpatrick rows do not
    follow it (75.79 / 85.36 is .888 and printed .876; 76.41 / 85.81 is .890 and printed .879).
    """
    best = largest(acc)
    return Parity(if_two(ratio(smallest(acc), best), acc), ratio(acc, best[..., None]))


def worst_group(acc: np.ndarray) -> Parity:
    """min_g acc_g, 0 to 1; `by_group` is acc_g. Cannot be raised by making the others worse.

    Source: Sagawa et al., Distributionally robust neural networks, arXiv 1911.08731.
    """
    return Parity(if_two(smallest(acc), acc), acc)


def gap_mix_adjusted(hits: np.ndarray, support: np.ndarray, *, cells: np.ndarray) -> Parity:
    """The gap the groups would have with one and the same mix of classes (direct standardisation).

    acc'_g = sum_c w_c H[g, c] / N[g, c] with w_c the share of class c among all images is `by_group`; NaN for a group
    whose own recalls cover less than half of the mix. What `gap` has more than this comes from the data (one group has
    more of the difficult classes), not from the classifier.

    Args:
      hits: (..., G, C) integer. H[g, c].
      support: (..., G, C) integer. N[g, c].
      cells: (G, C) bool. Where a group's own recall is used; elsewhere, and where a cell is empty, that of all groups
        together.

    Source: direct standardisation, as epidemiology does for age. That the contest's groups differ mostly by class mix:
    two numbers, one accuracy for the class "unknown" and one for the others, explain over .97 of the variance of
    published group accuracies.
    """
    per_class = support.sum(-2)  # (..., C)
    pooled = ratio(hits.sum(-2), per_class)[..., None, :]
    own = ratio(hits, support)
    is_own = cells & ~np.isnan(own)
    weights = ratio(per_class, per_class.sum(-1)[..., None])[..., None, :]
    covered = (weights * is_own).sum(-1)
    adjusted = np.where(covered >= 0.5, np.nansum(weights * np.where(is_own, own, pooled), -1), np.nan)
    return Parity(gap(adjusted).overall, adjusted)


# Parity of predictions and of recall, class by class


def mean_ratio(rates: np.ndarray) -> Parity:
    """mean_c min_g rate(c, g) / max_g rate(c, g), the ratios `by_class`. 1 is fair.

    `by_group` is the mean over classes of rate / max. Of selection rates it is demographic disparity, DPM; of true
    positive rates it is equality of opportunity, EOM. A class that is never predicted, or found in no group, is left
    out.

    Source: Du et al., FairDisCo, arXiv 2208.10013; HeViFa (2023). The mean is over the classes, as in
    FairDisCo's evaluation; HeViFa's text says groups.
    Differs: FairDisCo's code gives NaN once any class is never predicted.
    """
    best = largest(rates, axis=-2)  # (..., C)
    by_class = if_two(ratio(smallest(rates, axis=-2), best), rates, axis=-2)
    relative = np.where(np.isnan(by_class)[..., None, :], np.nan, ratio(rates, best[..., None, :]))
    return Parity(mean_defined(by_class), mean_defined(relative), by_class)


def di_selection(selected: np.ndarray) -> Parity:
    """Disparate impact: min_c min_g P(y^ = c | g) / max_g P(y^ = c | g). 1 is fair, under 0.8 suspect.

    `by_group` is the least ratio of a class, `by_class` that of a group.

    Source: Feldman et al., Certifying and removing disparate impact, arXiv 1412.3756, definition 1.1, class by class.
    """
    relative = ratio(selected, largest(selected, axis=-2)[..., None, :])
    by_class = if_two(smallest(relative, axis=-2), selected, axis=-2)
    return Parity(smallest(by_class), smallest(relative), by_class)


def spd_selection(selected: np.ndarray, *, reference: int) -> Parity:
    """The literature's SPD: max_{g, c} |P(y^ = c | g) - P(y^ = c | ref)|. 0 is fair.

    `by_group` is the largest difference of a class, `by_class` that of a group.

    Source: Dwork et al., Fairness through awareness, arXiv 1104.3913; problem page of ESFair 2023, which names it and
    whose code does something else (`spd_accuracy`).
    """
    difference = np.abs(selected - selected[..., reference, None, :])
    by_class = if_two(largest(difference, axis=-2), selected, axis=-2)
    return Parity(largest(by_class), largest(difference), by_class)


def equal_opportunity(tpr: np.ndarray) -> Parity:
    """max_c (max_g TPR(c, g) - min_g TPR(c, g)), the differences `by_class`. 0 is fair.

    `by_group` is the largest distance of a class to the best group.

    Source: Hardt et al., Equality of opportunity in supervised learning, arXiv 1610.02413, definition 2.2, one class
    against the rest; fairlearn's equal_opportunity_difference.
    """
    by_class = _spread(tpr)
    lacking = np.where(np.isnan(by_class)[..., None, :], np.nan, largest(tpr, axis=-2)[..., None, :] - tpr)
    return Parity(largest(by_class), largest(lacking), by_class)


def equalized_odds(tpr: np.ndarray, fpr: np.ndarray) -> Parity:
    """The larger of `equal_opportunity` and the same of false positive rates, class by class and group by group.

    Source: Hardt et al., arXiv 1610.02413, definition 2.1, one class against the rest; fairlearn's
    equalized_odds_difference with agg="worst_case".
    """
    false = _spread(fpr)
    by_class = np.fmax(_spread(tpr), false)
    lacking = largest(tpr, axis=-2)[..., None, :] - tpr
    excess = fpr - smallest(fpr, axis=-2)[..., None, :]
    by_group = np.where(np.isnan(false[..., :1]), np.nan, largest(np.fmax(lacking, excess)))
    return Parity(largest(by_class), by_group, by_class)


def parity(
    counts: np.ndarray, *, reference: int, cells: np.ndarray | None = None, names: Collection[str] | None = None
) -> dict[str, Parity]:
    """Every metric of this file by its name.

    Args:
      counts: (..., G, C, C + 1) integer. Only the groups that are to be compared.
      reference: Index of the group that SPD compares against.
      cells: (G, C) bool. Cells whose recall counts; default: those with at least `MIN_CELL` images. A bootstrap
        passes those of the observed data, so that every draw is of the same metric.
      names: Only these; default: all.
    """
    cells = counts.sum(-1) >= MIN_CELL if cells is None else cells
    acc, selected = accuracies(counts), selection_rates(counts)
    tpr = np.where(cells, true_positive_rates(counts), np.nan)
    metrics: dict[str, Callable[[], Parity]] = {
        "spd_accuracy": lambda: spd_accuracy(acc, reference=reference),
        "u_l1": lambda: u_l1(acc, accuracy=accuracy(counts)),
        "gap": lambda: gap(acc),
        "gap_mix_adjusted": lambda: gap_mix_adjusted(hits(counts), counts.sum(-1), cells=cells),
        "pqd": lambda: pqd(acc),
        "worst_group": lambda: worst_group(acc),
        "dpm": lambda: mean_ratio(selected),
        "eom": lambda: mean_ratio(tpr),
        "di_selection": lambda: di_selection(selected),
        "spd_selection": lambda: spd_selection(selected, reference=reference),
        "equal_opportunity": lambda: equal_opportunity(tpr),
        "equalized_odds": lambda: equalized_odds(tpr, false_positive_rates(counts)),
    }
    return {name: metric() for name, metric in metrics.items() if names is None or name in names}


def _spread(rates: np.ndarray) -> np.ndarray:
    """(..., G, C) -> (..., C): largest minus smallest of the groups."""
    return if_two(largest(rates, axis=-2) - smallest(rates, axis=-2), rates, axis=-2)
