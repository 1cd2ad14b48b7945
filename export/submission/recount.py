"""The contest's numbers counted again from predictions and labels, by code that shares nothing with the scorer.

So that a results file which says something else than its own predictions is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_PROFILE = "esfair2023"
"""Reading of the rules whose arithmetic this is; for another, numbers are looked for and not counted again."""
_WORST_SPD = 0.2
_TOLERANCE = 1e-9


def problems(
    results: object, labels: Mapping[str, str], answers: Mapping[str, str], reference: str, *, profile: str
) -> Iterator[str]:
    """What of a results file is missing, or is not what the predictions make it.

    Args:
      results: The file's content, whatever it is.
      labels: Class of every image, by its name <group>/<class>/<file>.
      answers: Class that was predicted, by the same name; an image without one counts as wrong.
      reference: Group that the others are compared against; one of those in `labels`.
      profile: Reading of the rules, of `bench.score`.
    """
    accuracies = {}
    for group in sorted({name.split("/")[0] for name in labels}):
        names = [name for name in labels if name.split("/")[0] == group]
        accuracies[group] = sum(answers.get(name) == labels[name] for name in names) / len(names)
    spd = sum(abs(accuracy - accuracies[reference]) for accuracy in accuracies.values()) / len(accuracies)
    expected = {
        "accuracy": sum(answers.get(name) == label for name, label in labels.items()) / len(labels),
        "spd": spd,
        "fairness": max(0.0, (_WORST_SPD - spd) / _WORST_SPD),
    }
    told = {name: value(results, "score", name, "value") for name in expected}
    told |= {f"accuracy of {group}": value(results, "by_group", group, "accuracy", "value") for group in accuracies}
    expected |= {f"accuracy of {group}": accuracy for group, accuracy in accuracies.items()}
    for name, found in told.items():
        if isinstance(found, bool) or not isinstance(found, float | int):
            yield f"has no {name}"
        elif profile == _PROFILE and not abs(found - expected[name]) <= _TOLERANCE:  # a NaN is no distance
            yield f"says {found} for {name}, its predictions and the labels make it {expected[name]}"


def value(values: object, *names: str) -> object:
    """What lies at a path of names in JSON of anybody's; None where the path ends before."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values
