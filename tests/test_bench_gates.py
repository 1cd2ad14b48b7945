"""Minima: what passes, what does not, and the reason."""

from bench.results import gates


def test_gates() -> None:
    result = {
        "score": {"accuracy": {"value": 0.8}, "fairness": {"value": None}, "total": None},
        "macro_f1": {"value": 0.7},
        "fairness": {"worst_group": {"value": 0.6}},
    }
    minima = {"accuracy": 0.8, "fairness": 0.0, "total": 0.1, "macro_f1": 0.71, "worst_group": 0.5}
    checked = gates.check(result, minima)
    assert [gate["passed"] for gate in checked] == [True, False, False, False, True]
    assert checked[3] == {"name": "macro_f1", "minimum": 0.71, "value": 0.7, "passed": False, "reason": "under 0.71"}
    assert [gate["reason"] for gate in checked] == [None, "not defined", "not defined", "under 0.71", None]


def test_an_invalid_latency_passes_no_gate() -> None:
    contest = {name: {"value": 0.9} for name in ("accuracy", "latency", "total", "total_of_two_thirds")}
    result = {"score": contest, "valid": False, "reasons": ["latency: 2 runs", "latency: hot"]}
    checked = {gate["name"]: gate["reason"] for gate in gates.check(result, dict.fromkeys(contest, 0.1))}
    invalid = "not valid: latency: 2 runs; latency: hot"
    assert checked == {"accuracy": None, "latency": invalid, "total": invalid, "total_of_two_thirds": None}
    assert all(gate["passed"] for gate in gates.check({**result, "valid": True}, dict.fromkeys(contest, 0.1)))
