"""Remarks on names and answers that no figure shows: names that look like one, a model that always answers the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from edge.exit import remark

MIN_ANSWERS = 10
"""Fewer pictures may well be all of one class."""


def lookalikes(what: str, names: Iterable[str]) -> Iterator[str]:
    """One line for each set of names that differ only in case, blanks or the coding of accents."""
    alike: dict[str, list[str]] = {}
    for name in sorted({*names}):
        alike.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            shown = ", ".join(map(ascii, same[:5]))
            yield f"the {what} {shown} look like one (case, blanks, accents), and count as {len(same)}"


def remark_lookalikes(what: str, names: Iterable[str]) -> None:
    """Says those lines."""
    for line in lookalikes(what, names):
        remark(line)


def one_answer(answers: Iterable[str | None], *, of: str = "picture") -> str | None:
    """Says that all answers are the same class, if there are at least `MIN_ANSWERS`; None stands for no answer."""
    given = [answer for answer in answers if answer is not None]
    if len(given) < MIN_ANSWERS or len({*given}) > 1:
        return None
    return f"the model answers {given[0]} to every {of} ({len(given)}): it tells nothing apart"


def remarks_on(labels: Sequence[str], groups: Sequence[str], answers: Sequence[str | None]) -> Iterator[str]:
    """Both of scored pictures, each with its class, its group and its answer."""
    yield from lookalikes("classes", labels)
    yield from lookalikes("groups", groups)
    if len({*labels}) > 1 and (line := one_answer(answers)):
        yield line
