"""The contest's formulas against numbers by hand, the organisers' loop, enumeration, and published results."""

import itertools
from typing import Any

import numpy as np
import pytest

from bench.metrics import contest
from edge.errors import EdgeError

OURS, CODE, PAGE = (contest.PROFILES[name] for name in ("esfair2023", "esfair2023-code", "esfair2023-page"))


@pytest.mark.parametrize(
    ("spd", "expected"), [(0.0, 1.0), (0.05, 0.75), (0.0525, 0.7375), (0.2, 0.0), (0.2001, 0.0), (1.0, 0.0)]
)
def test_fairness_is_clamped_at_0(spd: float, expected: float) -> None:
    assert float(contest.fairness_score(np.array(spd))) == pytest.approx(expected)


def test_fairness_without_floor_goes_below_0() -> None:
    assert float(contest.fairness_score(np.array(0.3), has_floor=False)) == pytest.approx(-0.5)


def test_li_et_al_s4() -> None:
    # Group accuracies .882 .753 .868 .848: SPD .0373, fairness .814. Their group sizes give .845 pooled.
    sizes = np.array([3564, 2350, 3291, 2007])
    parts = contest.parts(
        sizes * np.array([0.882, 0.753, 0.868, 0.848]), sizes, reference=3, compared=[0, 1, 2, 3], profile=OURS
    )
    assert round(float(parts.fairness), 3) == 0.814
    assert round(float(parts.accuracy), 3) == 0.845
    assert float(parts.two_thirds) == pytest.approx((float(parts.accuracy) + float(parts.fairness)) / 3)


def test_an_excluded_group_counts_in_accuracy_alone() -> None:
    hits, sizes = np.array([8, 6, 0]), np.array([10, 10, 20])
    parts = contest.parts(hits, sizes, reference=1, compared=[0, 1], profile=OURS)
    assert float(parts.accuracy) == 14 / 40
    assert float(parts.spd) == pytest.approx(0.2 / 2)


# The reference group

SIZES = {"G6": 5, "G7": 2, "G8": 4, "G10": 3}


def groups(sizes: dict[str, int]) -> list[str]:
    return [name for name, n in sizes.items() for _ in range(n)]


@pytest.mark.parametrize(
    ("sizes", "profile", "wanted", "excluded", "expected"),
    [
        (SIZES, OURS, None, (), "G10"),  # although G7 is smaller
        (SIZES, OURS, "G10", (), "G10"),
        (SIZES, CODE, None, (), "G10"),
        (SIZES, PAGE, None, (), "G7"),
        (SIZES, PAGE, "G6", (), "G6"),
        (SIZES, OURS, None, ("G10",), "G7"),
        (SIZES, OURS, "G8", ("G10",), "G8"),
        ({"light": 9, "dark": 3}, OURS, None, (), "dark"),
        ({"light": 9, "dark": 3}, OURS, "light", (), "light"),
        ({"b": 3, "a": 3, "c": 4}, OURS, None, (), "a"),  # a tie goes to the smallest name
        ({"V-VI": 30, "I-II": 90, "unknown": 5}, OURS, None, ("unknown",), "V-VI"),
        ({"V-VI": 30, "I-II": 90, "not stated": 5}, OURS, None, (), "V-VI"),
    ],
)
def test_reference_group(
    sizes: dict[str, int], profile: contest.Profile, wanted: str | None, excluded: tuple[str, ...], expected: str
) -> None:
    assert contest.reference_group(groups(sizes), profile=profile, wanted=wanted, excluded=excluded) == expected


@pytest.mark.parametrize(
    ("wanted", "excluded", "message"),
    [
        ("G9", (), "no group 'G9' in the data set, expected one of G10, G6, G7, G8"),
        (None, ("G1",), "no group 'G1'"),
        ("G6", (), "the reference of esfair2023 is G10 where the data has it, got 'G6'"),
        ("G6", ("G6",), "'G6' is both the reference and excluded"),
        (None, tuple(SIZES), "every group is excluded"),
    ],
)
def test_reference_group_refuses(wanted: str | None, excluded: tuple[str, ...], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        contest.reference_group(groups(SIZES), profile=OURS, wanted=wanted, excluded=excluded)


# The organisers' code


def organisers_loop(
    is_right: dict[str, np.ndarray], permutations: dict[str, np.ndarray]
) -> tuple[float, float, float]:
    """Their evaluator, retold: for each group a shuffled loader with batches of 64 that drops the last short one."""
    correct_all, total_all = 0, 0
    accuracy = {}
    for group in is_right:
        correct, total = 0, 0
        shuffled = [is_right[group][i] for i in permutations[group]]
        batches = [shuffled[i : i + 64] for i in range(0, len(shuffled), 64)]
        for batch in batches:
            if len(batch) < 64:
                continue
            for right in batch:
                correct += bool(right)
                total += 1
        accuracy[group] = correct / total
        correct_all += correct
        total_all += total
    spd = 0.0
    for group in accuracy:
        spd += abs(accuracy[group] - accuracy["G10"])
    spd = spd / len(accuracy)
    fairness = 0.0 if spd > 0.2 else (0.2 - spd) / 0.2
    return correct_all / total_all, spd, fairness


@pytest.mark.parametrize("seed", range(5))
def test_the_organisers_loop_and_ours_agree_on_the_same_permutation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["G6", "G7", "G8", "G10"]
    sizes = [711, 468, 64, 127]  # a full batch exactly, and the 127 of which 64 are scored
    right = {name: rng.random(n) < 0.5 + 0.1 * seed for name, n in zip(names, sizes, strict=True)}
    orders = {name: rng.permutation(n) for name, n in zip(names, sizes, strict=True)}
    kept = contest.kept_hits([right[name] for name in names], [orders[name] for name in names], CODE)
    scored = contest.scored_sizes(np.array(sizes), CODE)
    assert scored.tolist() == [704, 448, 64, 64]
    ours = contest.parts(kept, scored, reference=3, compared=[0, 1, 2, 3], profile=CODE)
    expected = organisers_loop(right, orders)
    assert (float(ours.accuracy), float(ours.spd), float(ours.fairness)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("compared", [[0, 1, 2], [0, 2]])
def test_moments_over_permutations_are_those_of_all_permutations(compared: list[int]) -> None:
    profile = contest.Profile("small", "", batch_size=2)
    right = [np.array([1, 1, 0, 1, 1], bool), np.array([1, 0, 1], bool), np.array([0, 0, 1], bool)]
    values: dict[str, list[float]] = {"accuracy": [], "fairness": [], "total_of_two_thirds": []}
    wide = contest.MAX_SPD  # the floor would bind on groups this small
    contest.MAX_SPD = 2.0
    try:
        # Of all permutations with the same images in front, one.
        chosen = [itertools.combinations(range(len(group)), len(group) // 2 * 2) for group in right]
        for firsts in itertools.product(*chosen):
            orders = [[*first, *({*range(len(group))} - {*first})] for first, group in zip(firsts, right)]
            kept = contest.kept_hits(right, [np.array(order) for order in orders], profile)
            parts = contest.parts(kept, np.array([4, 2, 2]), reference=2, compared=compared, profile=profile)
            for name, value in zip(values, (parts.accuracy, parts.fairness, parts.two_thirds), strict=True):
                values[name].append(float(value))
        found = contest.over_permutations(
            np.array([g.sum() for g in right]), np.array([5, 3, 3]), reference=2, compared=compared, profile=profile
        )
    finally:
        contest.MAX_SPD = wide
    assert found["method"] == "exact"
    for name, drawn in values.items():
        assert found[name] == {"mean": pytest.approx(np.mean(drawn)), "sd": pytest.approx(np.std(drawn))}


def test_moments_where_the_floor_may_bind_are_drawn() -> None:
    hits, sizes = np.array([600, 250, 400, 200]), np.array([711, 468, 655, 399])
    arguments: dict[str, Any] = {"reference": 3, "compared": [0, 1, 2, 3], "profile": CODE}
    found = contest.over_permutations(hits, sizes, **arguments)
    assert found["method"] == "exact"  # SPD .13
    hits = np.array([680, 250, 600, 200])  # SPD .2
    found = contest.over_permutations(hits, sizes, **arguments)
    assert found["method"] == "drawn"
    rng = np.random.default_rng(5)
    drawn = contest.parts(
        contest.drawn_hits(np.tile(hits, (20_000, 1)), sizes, CODE, rng), contest.scored_sizes(sizes, CODE), **arguments
    )
    assert found["fairness"]["mean"] == pytest.approx(drawn.fairness.mean(), abs=0.002)
    assert found["fairness"]["sd"] == pytest.approx(drawn.fairness.std(), rel=0.05)


def test_nothing_is_dropped_of_whole_batches() -> None:
    sizes = np.array([128, 64])
    found = contest.over_permutations(np.array([100, 60]), sizes, reference=1, compared=[0, 1], profile=CODE)
    assert found["accuracy"] == {"mean": pytest.approx(160 / 192), "sd": 0}
    assert found["fairness"]["sd"] == 0


def test_one_group_has_no_fairness_over_permutations() -> None:
    found = contest.over_permutations(np.array([70, 60]), np.array([100, 90]), reference=0, compared=[0], profile=CODE)
    assert found["fairness"] == found["total_of_two_thirds"] == {"mean": None, "sd": None}
    assert found["accuracy"]["mean"] == pytest.approx((0.7 * 64 + 60 / 90 * 64) / 128)


def test_a_group_under_64_that_is_not_compared_is_dropped_whole() -> None:
    hits, sizes = np.array([70, 60, 20]), np.array([100, 90, 30])
    arguments: dict[str, Any] = {"reference": 0, "compared": [0, 1], "profile": CODE}
    assert contest.over_permutations(hits, sizes, **arguments) == contest.over_permutations(
        hits[:2], sizes[:2], **arguments
    )


def test_a_group_under_64_is_refused_by_their_code_alone() -> None:
    contest.check_sizes([63], ["G7"], OURS)
    contest.check_sizes([64], ["G7"], CODE)
    with pytest.raises(EdgeError, match="group G7 has 63 images; .* divides by zero; expected at least 64"):
        contest.check_sizes([64, 63], ["G6", "G7"], CODE)
