"""The contest's score, as named versions of its rules.

total = (accuracy + fairness + latency) / 3, fairness = (0.2 - SPD) / 0.2, latency = 1 - L / 100 with L in seconds per
100 images. The problem page and the organisers' code disagree on the rest: each reading is a profile with a name, which
goes into every result. Nothing but this file knows the group G10, the batch of 64 or the 0.2.

Source: ESFair 2023, problem page, and sample code, test.py (commit 882a2b6), whose fairness is 0 where SPD is over 0.2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edge.errors import EdgeError

from ..dataset import NOT_STATED
from . import fairness
from .counts import ratio

MAX_SPD = 0.2
"""SPD that scores 0."""


@dataclass(frozen=True)
class Profile:
    """One reading of the contest's rules."""

    name: str
    summary: str
    """One line for people."""
    reference: str | None = "G10"
    """Group compared against wherever the data has it, as in the organisers' code; None: the one with fewest images."""
    has_floor: bool = True
    """Whether fairness is 0 for an SPD over 0.2, rather than negative."""
    batch_size: int | None = None
    """Images of a group that are scored at once; what does not fill a batch is dropped at random. None: all count."""


DEFAULT = "esfair2023"
PROFILES = {
    profile.name: profile
    for profile in (
        Profile(DEFAULT, "the organisers' formulas on every image"),
        # Their loader shuffles each group and drops its last incomplete batch: up to 63 images per group, at random.
        Profile("esfair2023-code", "the organisers' code, which drops up to 63 images per group", batch_size=64),
        # The page writes P(Y^=1 | minority) - P(Y^=1 | majority); with more than two classes the one reading that gives
        # a single number is Y^=1 for a correct prediction. N counts the minority, whose SPD it sets to 0.
        Profile("esfair2023-page", "the rule text: minority = fewest images, no floor", None, has_floor=False),
    )
}
"""`esfair2023` is what we compare models with."""


class Parts(NamedTuple):
    """What the contest makes of group accuracies, each (...) float; NaN where fewer than two groups are compared."""

    accuracy: np.ndarray
    spd: np.ndarray
    fairness: np.ndarray

    @property
    def two_thirds(self) -> np.ndarray:
        """(accuracy + fairness) / 3, at most 2/3; the total without its latency."""
        return np.asarray((self.accuracy + self.fairness) / 3)


def fairness_score(spd: np.ndarray, *, has_floor: bool = True) -> np.ndarray:
    """(0.2 - SPD) / 0.2, held at 0 where the profile has a floor; (...) float -> (...) float."""
    score = np.asarray((MAX_SPD - spd) / MAX_SPD)
    return np.asarray(np.maximum(score, 0)) if has_floor else score


def latency_score(seconds_per_100: float) -> float:
    """1 - L / 100, held in 0 to 1: the problem page does not say what L above 100 s gives."""
    return min(1.0, max(0.0, 1 - seconds_per_100 / 100))


def parts(
    hits: np.ndarray, sizes: np.ndarray, *, reference: int, compared: Sequence[int], profile: Profile
) -> Parts:
    """Accuracy and fairness of (..., G) integer hits among the (..., G) scored images of each group.

    `reference` and `compared` are indices of groups: accuracy is over all, the SPD over those compared.
    """
    compared = list(compared)
    acc = ratio(hits[..., compared], sizes[..., compared])
    spd = fairness.spd_accuracy(acc, reference=compared.index(reference)).overall
    return Parts(ratio(hits.sum(-1), sizes.sum(-1)), spd, fairness_score(spd, has_floor=profile.has_floor))


def left_out(groups: Collection[str], excluded: Sequence[str] = ()) -> tuple[str, ...]:
    """The groups that are compared with no other: those excluded, and that of the images whose group is not stated."""
    return (*excluded, *({NOT_STATED} & {*groups} - {*excluded}))


def reference_group(
    groups: Iterable[str], *, profile: Profile, wanted: str | None = None, excluded: Sequence[str] = ()
) -> str:
    """The group that SPD compares against: the contest's own, else the one asked for, else the one with fewest images.

    Args:
      groups: Group of every image of the whole data set, also of those that are not scored.
      profile: The reading of the rules.
      wanted: Group asked for.
      excluded: Groups left out of parity, besides that of the images whose group is not stated.

    Raises:
      EdgeError: a name that is no group of the data, the contest's group set aside, or no group left.
    """
    sizes = Counter(groups)
    names = ", ".join(sorted(sizes))
    for name in (*excluded, *([wanted] if wanted is not None else [])):
        if name not in sizes:
            raise EdgeError(f"no group {name!r} in the data set, expected one of {names}")
    for name in (excluded := left_out(sizes, excluded)):
        del sizes[name]
    if not sizes:
        raise EdgeError(f"every group is excluded or {NOT_STATED}, got {names}, expected one that is neither")
    if wanted in excluded:
        raise EdgeError(f"the group {wanted!r} is both the reference and excluded")
    if profile.reference is not None and profile.reference in sizes:
        if wanted not in (None, profile.reference):
            raise EdgeError(
                f"the reference of {profile.name} is {profile.reference} where the data has it, got {wanted!r}"
            )
        return profile.reference
    return wanted if wanted is not None else min(sizes, key=lambda name: (sizes[name], name))


# The organisers' code: what it drops


def scored_sizes(sizes: np.ndarray, profile: Profile) -> np.ndarray:
    """(..., G) integer -> (..., G) integer: how many images of each group the profile scores."""
    return sizes if profile.batch_size is None else np.asarray(sizes // profile.batch_size * profile.batch_size)


def check_sizes(sizes: Sequence[int], names: Sequence[str], profile: Profile) -> None:
    """Refuses a group that fills no batch.

    Raises:
      EdgeError: the organisers' code divides by zero there, and so names no score.
    """
    for name, size in zip(names, sizes, strict=True):
        if profile.batch_size is not None and size < profile.batch_size:
            raise EdgeError(
                f"group {name} has {size} images; {profile.name} scores whole batches of {profile.batch_size} alone, "
                f"where the organisers' code divides by zero; expected at least {profile.batch_size} (--profile "
                f"{DEFAULT} scores every image)"
            )


def kept_hits(is_right: Sequence[np.ndarray], permutations: Sequence[np.ndarray], profile: Profile) -> np.ndarray:
    """(G,) int64: correct predictions among the images that a shuffled pass scores.

    Args:
      is_right: G times (N_g,) bool. Whether each image of the group is predicted correctly.
      permutations: G times (N_g,) integer. The order in which the group is shuffled.
      profile: The reading of the rules.
    """
    kept = scored_sizes(np.array([len(group) for group in is_right]), profile)
    return np.array([g[order[:n]].sum() for g, order, n in zip(is_right, permutations, kept, strict=True)], np.int64)


def drawn_hits(hits: np.ndarray, sizes: np.ndarray, profile: Profile, rng: np.random.Generator) -> np.ndarray:
    """Correct predictions among those kept, for one random shuffle of each group; all arrays are (..., G) integer."""
    if profile.batch_size is None:
        return hits
    hits, sizes = hits.astype(np.int64), sizes.astype(np.int64)
    return np.asarray(rng.hypergeometric(hits, sizes - hits, scored_sizes(sizes, profile)))


def over_permutations(
    hits: np.ndarray, sizes: np.ndarray, *, reference: int, compared: Sequence[int], profile: Profile, seed: int = 0
) -> dict[str, Any]:
    """Mean and standard deviation of the score over all shuffles: what the organisers' number would vary by.

    The correct predictions kept of a group are hypergeometric, and the groups are shuffled apart. Given the accuracy of
    the reference, accuracy and fairness are sums of one term per group, so mean and variance are exact. Only where
    the floor of fairness may bind they are taken from 100,000 drawn shuffles.

    Args:
      hits: (G,) integer. Correct predictions of each group, among all its images.
      sizes: (G,) integer. Images of each group.
      reference: Index of the group that SPD compares against.
      compared: Indices of the groups in the SPD.
      profile: A profile that drops images.
      seed: Of the drawn shuffles.

    Returns:
      `method`, "exact" or "drawn"; and {"mean", "sd"} of `accuracy`, `fairness` and `total_of_two_thirds`; None where
      fewer than two groups are compared.
    """
    kept = scored_sizes(sizes, profile)
    outcomes = [_hypergeometric(int(h), int(n), int(k)) for h, n, k in zip(hits, sizes, kept, strict=True)]
    num_kept, num_compared = kept.sum(), len(compared)
    reference_hits, reference_p = outcomes[reference]  # (R,)
    others = []  # of each its hits (K,), their probabilities (K,), and what it is off the reference (R, K)
    for g, (group_hits, p) in enumerate(outcomes):
        if g != reference:
            off = ratio(group_hits, kept[g]) - (reference_hits / kept[reference])[:, None]
            others.append((group_hits, p, np.abs(off) if g in compared else np.zeros_like(off)))
    if profile.has_floor and np.sum([off.max(-1) for _, _, off in others], axis=0).max() / num_compared > MAX_SPD:
        draws = drawn_hits(np.tile(hits, (100_000, 1)), sizes, profile, np.random.default_rng(seed))
        drawn = parts(draws, kept, reference=reference, compared=compared, profile=profile)
        values = {"accuracy": drawn.accuracy, "fairness": drawn.fairness, "total_of_two_thirds": drawn.two_thirds}
        moments = {name: {"mean": float(v.mean()), "sd": float(v.std())} for name, v in values.items()}
        return {"method": "drawn", **moments}

    def moments_of(alpha: float, beta: float, constant: float) -> dict[str, float | None]:
        """Of constant + alpha * accuracy - beta * SPD."""
        if beta and num_compared < 2:
            return {"mean": None, "sd": None}  # one group is not fair, it is alone
        means, variances = constant + alpha * reference_hits / num_kept, np.zeros(len(reference_hits))
        for group_hits, p, off in others:
            term = alpha * group_hits / num_kept - beta / num_compared * off
            mean = term @ p
            means, variances = means + mean, variances + (term - mean[:, None]) ** 2 @ p
        mean = reference_p @ means
        variance = reference_p @ variances + reference_p @ (means - mean) ** 2
        return {"mean": float(mean), "sd": math.sqrt(float(variance))}

    return {
        "method": "exact",
        "accuracy": moments_of(1, 0, 0),
        "fairness": moments_of(0, 1 / MAX_SPD, 1),
        "total_of_two_thirds": moments_of(1 / 3, 1 / (3 * MAX_SPD), 1 / 3),
    }


def _hypergeometric(hits: int, size: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Possible numbers of hits among `kept` of `size`, and their probabilities."""
    support = np.arange(max(0, kept - (size - hits)), min(kept, hits) + 1)

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    logs = [log_choose(hits, int(h)) + log_choose(size - hits, kept - int(h)) for h in support]
    p = np.exp(np.array(logs) - log_choose(size, kept))
    return support, p / p.sum()
