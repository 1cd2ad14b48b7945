"""What each metric is called, which way is better, and what it says: the words of tables, pages and docs/score.md."""

from __future__ import annotations

from typing import NamedTuple

UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
LEGEND = f"{UP} higher is better, {DOWN} lower is better"


class Meaning(NamedTuple):
    """The words of one metric."""

    title: str
    """As it stands in a line; a heading makes its first letter large."""
    is_higher_better: bool | None
    """None: neither; it explains another metric."""
    text: str
    """What it says, in one line."""

    @property
    def arrow(self) -> str:
        """↑ higher is better, ↓ lower is better, a blank for neither."""
        return {None: " ", True: UP, False: DOWN}[self.is_higher_better]

    @property
    def direction(self) -> str:
        """The arrow in words."""
        return "" if self.is_higher_better is None else f"{'higher' if self.is_higher_better else 'lower'} is better"


MEANINGS = {
    "accuracy": Meaning("accuracy", True, "share of the images whose label is right"),
    "balanced_accuracy": Meaning("balanced accuracy", True, "mean of the classes' recalls: each class counts the same"),
    "macro_f1": Meaning("macro F1", True, "mean over the classes of 2 x precision x recall / (precision + recall)"),
    "recall": Meaning("recall", True, "of the images of a class, the share that was found"),
    "precision": Meaning("precision", True, "of the answers with a class, the share that is right"),
    "sensitivity": Meaning("sensitivity", True, "of the malignant images, the share that was answered as malignant"),
    "specificity": Meaning("specificity", True, "of the other images, the share that was not answered as malignant"),
    "ece": Meaning("calibration error", False, "mean distance of the confidence from the share that is right"),
    "spd": Meaning("SPD", False, "mean distance of the groups' accuracies from the reference group's"),
    "fairness": Meaning("fairness", True, "(0.2 - SPD) / 0.2, at least 0"),
    "seconds_per_100": Meaning("seconds per 100 photos", False, "time to read and classify 100 photos"),
    "latency": Meaning("latency", True, "1 - L / 100 with L seconds per 100 photos: a score, so faster is higher"),
    "total": Meaning("total", True, "(accuracy + fairness + latency) / 3"),
    "total_of_two_thirds": Meaning("total of two thirds", True, "(accuracy + fairness) / 3, at most 2/3"),
    "worst_group": Meaning("worst group", True, "accuracy of the worst group; making others worse cannot raise it"),
    "spd_accuracy": Meaning("SPD", False, "mean distance of the groups' accuracies from the reference group's"),
    "gap": Meaning("gap", False, "accuracy of the best group minus that of the worst"),
    "gap_mix_adjusted": Meaning("gap at equal mix", False, "the gap if every group had the same mix of classes"),
    "gap_from_mix": Meaning("gap from mix", None, "gap minus gap at equal mix: what the data add, not the model"),
    "u_l1": Meaning("U", False, "sum of the distances of the groups' accuracies from the overall one (FaHaNa)"),
    "pqd": Meaning("PQD", True, "accuracy of the worst group divided by that of the best (FairDisCo, HeViFa)"),
    "dpm": Meaning("DPM", True, "how evenly each class is answered across groups; a different mix lowers it too"),
    "di_selection": Meaning("disparate impact", True, "lowest ratio of groups' shares of a class; suspect under 0.8"),
    "spd_selection": Meaning("SPD of answers", False, "largest distance of a class's share from the reference group's"),
    "eom": Meaning("EOM", True, "recall of the worst group divided by that of the best, mean over classes"),
    "equal_opportunity": Meaning("equal opportunity", False, "largest difference of recall between groups, any class"),
    "equalized_odds": Meaning("equalized odds", False, "the same over recall and false alarms"),
}
"""Metric, by its name in a results file -> its words."""


def meaning(name: str) -> Meaning:
    """Of a metric by its name in a results file; what stands before the last dot does not matter."""
    return MEANINGS[name.rpartition(".")[2]]
