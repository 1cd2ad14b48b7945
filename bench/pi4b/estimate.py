"""The contest's mix of photos, one of each size, and what 100 of them are modelled to take on a Pi 4B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..metrics.contest import latency_score
from ..photos.images import ESFAIR, encode
from ..photos.scene import draw
from . import layers
from .count import Cost
from .time_model import GAIN_OF_4_CORES, Formula, Range, Validation, percents

MODELLED = "modelled, not measured: one Cortex-A72 core of a Raspberry Pi 4B at 1.8 GHz"
BATCH = 4
"""Images per call of the network, as edge-infer's default; the winners' runtime has 1."""


@dataclass(frozen=True)
class Scale:
    """What turns counts into a range of milliseconds of one thread: a formula, and factors, low and high, on it."""

    formula: Formula
    validation: Validation  # of the formula
    photos: Range  # on what decode and resize are modelled to cost
    winners: Range  # on what the winners do to a photo: other code, so boards that measured ours say nothing of it

    def range_ms(self, cost: Cost) -> Range:
        """Between which the true value is believed to lie."""
        low, high = {"infer": self.validation.factors(), "winners": self.winners}.get(cost.kind, self.photos)
        modelled = self.formula.ms(cost.counts)
        return low * modelled, high * modelled

    def as_json(self, costs: Sequence[Cost]) -> dict[str, Any]:
        """What a results file says of regions and of how far their times are to be trusted."""
        regions = []
        for each in costs:
            times = {"modelled_ms": round(self.formula.ms(each.counts), 4)}
            regions.append({**each.as_json(), **times, "range_ms": [round(ms, 4) for ms in self.range_ms(each)]})
        return {
            "regions": regions,
            "formula": asdict(self.formula),
            "validation": asdict(self.validation),
            "network_factors": list(self.validation.factors()),
            "photo_factors": list(self.photos),
            "winners_factors": list(self.winners),
        }


@dataclass(frozen=True)
class Estimate:
    """Seconds per 100 photos, modelled: low and high."""

    runtime: str  # "ours" or "winners"
    model: str  # name of the model file
    one_thread_s: Range
    four_cores_s: Range
    score: Range  # of the contest's latency, on four cores


def compared(ours: Estimate, theirs: Estimate, scale: Scale) -> Range:
    """How many times longer theirs takes than ours on one thread, low and high."""
    (low, high), (low_of_theirs, high_of_theirs) = ours.one_thread_s, theirs.one_thread_s
    if scale.photos == scale.winners:  # one error for both: the ends belong together
        least, most = sorted((low_of_theirs / low, high_of_theirs / high))
        return least, most
    return low_of_theirs / high, high_of_theirs / low


def mix() -> dict[tuple[int, int], float]:
    """(width, height) -> share of the photos; the shares add up to 1."""
    return {(w, h): group.percent * percent / 1e4 for group in ESFAIR for w, h, percent in group.sizes}


def write_photos(folder: Path) -> Iterator[tuple[Path, float]]:
    """One photo of each size of the mix with its share; drawn unless it is there."""
    for index, ((width, height), share) in enumerate(mix().items()):
        path = folder / f"{width}x{height}.jpg"
        draw_photo(path, width, height, index=index)
        yield path, share


def draw_photo(path: Path, width: int, height: int, *, index: int = 0, quality: int = 90) -> None:
    """Makes a generated photo of seed 0 unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = encode(draw(width, height, seed=0, index=index), quality=quality)
        layers.put(path, lambda part: part.write_bytes(data))


def estimates(costs: Sequence[Cost], shares: Mapping[str, float], scale: Scale) -> list[Estimate]:
    """Ours with every model that was counted, and the winners' runtime where it was.

    `costs` need the photos' regions, and each network at the batch size of its runtime. `shares` are of the photos, by
    name, and add up to 1.
    """
    found = []
    for runtime, steps, batch in (("ours", ("decode", "resize"), BATCH), ("winners", ("winners",), 1)):
        photos = [(shares[cost.name], scale.range_ms(cost)) for cost in costs if cost.kind in steps]
        networks = [cost for cost in costs if cost.kind == "infer" and cost.batch == batch]
        for network in networks if photos else ():
            parts = [*photos, (1 / batch, scale.range_ms(network))]
            low, high = (sum(share * ms[end] for share, ms in parts) / 10 for end in (0, 1))  # ms a photo -> s per 100
            least, most = GAIN_OF_4_CORES
            score = latency_score(high / least), latency_score(low / most)
            found.append(Estimate(runtime, network.name, (low, high), (low / most, high / least), score))
    return found


def table(costs: Sequence[Cost], scale: Scale, found: Sequence[Estimate]) -> Iterator[str]:
    """The lines a person reads."""
    yield MODELLED
    width = max(len(each.label) for each in costs)
    yield f"{'region':{width}}  instructions  L1 misses  L2 misses  mispredicted   modelled ms"
    for each in costs:
        counts, (low, high) = each.counts, scale.range_ms(each)
        misses = f"{counts.l1_misses:10,.0f} {counts.l2_misses:10,.0f} {counts.branch_misses:13,.0f}"
        yield f"{each.label:{width}} {counts.instructions:13,.0f} {misses}   {low:.1f} to {high:.1f}"
    errors = scale.validation
    yield (
        f"networks: {errors.points} measured times are reproduced within {errors.fit_mean:.1%} on average, "
        f"{errors.fit_max:.1%} at most; left out of the fit, {errors.left_out_mean:.1%} and "
        f"{errors.left_out_max:.1%}: a time is given as {percents(errors.factors())}"
    )
    kinds = {each.kind for each in costs}
    if kinds & {"decode", "resize"}:
        low, high = scale.photos
        yield f"photos: between {low:.2f} and {high:.2f} times the formula, as published (--validate) or measured"
    if "winners" in kinds:
        low, high = scale.winners
        yield f"photos of the winners: between {low:.2f} and {high:.2f} times, as published"
    if found:
        yield "100 photos of the contest mix, modelled seconds:"
    for one in found:
        (low, high), (low4, high4), (worst, best) = one.one_thread_s, one.four_cores_s, one.score
        yield (
            f"  {one.runtime}, {one.model}: one thread {low:.1f} to {high:.1f}, four cores {low4:.1f} to "
            f"{high4:.1f}, latency score {worst:.3f} to {best:.3f}"
        )
    for ours, theirs in ((a, b) for a in found for b in found if a.model == b.model):
        if (ours.runtime, theirs.runtime) == ("ours", "winners"):
            low, high = compared(ours, theirs, scale)
            yield f"  winners / ours, {ours.model}: {low:.1f} to {high:.1f}"
