"""Readings of the contest's rules, each with a name that goes into every result; see `bench.metrics.contest`.

The problem page and the organisers' code disagree. `esfair2023` is what we compare models with.

Source: ESFair 2023, problem page, and sample code, test.py (commit 882a2b6).
"""

from __future__ import annotations

from dataclasses import dataclass


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
