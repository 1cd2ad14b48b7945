"""The contest's mix of photos, one of each size, and what 100 of them are modelled to take on a Pi 4B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..photos.images import ESFAIR, encode
from ..photos.scene import draw
from ..speed.latency import latency_score
from . import layers
from .count import Cost
from .time_model import GAIN_OF_4_CORES, Formula

BATCH = 4
"""Images per call of the network, as edge-infer's default; the winners' runtime has 1."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """What turns counts into a range of milliseconds of one thread."""

    formula: Formula
    photos: Range
    """Factors, low and high, on what decode and resize are modelled to cost."""
    winners: Range
    """The same for what the winners do to a photo: other code, so boards that measured ours say nothing of it."""
    network: Range
    """The same for networks."""

    def ms(self, cost: Cost) -> float:
        """Modelled, as the formula says it."""
        return self.formula.ms(cost.counts)

    def range_ms(self, cost: Cost) -> Range:
        """Between which the true value is believed to lie."""
        low, high = {"infer": self.network, "winners": self.winners}.get(cost.kind, self.photos)
        return low * self.ms(cost), high * self.ms(cost)


@dataclass(frozen=True)
class Estimate:
    """Seconds per 100 photos, modelled: low and high."""

    runtime: str
    """"ours" or "winners"."""
    model: str
    """Name of the model file."""
    one_thread_s: Range
    four_cores_s: Range
    score: Range
    """Of the contest's latency, on four cores."""


def compared(ours: Estimate, theirs: Estimate, scale: Scale) -> Range:
    """How many times longer theirs takes than ours on one thread, low and high."""
    (low, high), (low_of_theirs, high_of_theirs) = ours.one_thread_s, theirs.one_thread_s
    if scale.photos == scale.winners:  # one error for both: the ends belong together
        least, most = sorted((low_of_theirs / low, high_of_theirs / high))
        return least, most
    return low_of_theirs / high, high_of_theirs / low


def mix() -> dict[tuple[int, int], float]:
    """(width, height) -> share of the photos; the shares add up to 1."""
    return {
        (width, height): size_class.percent * percent / 1e4
        for size_class in ESFAIR
        for width, height, percent in size_class.sizes
    }


def write_photos(folder: Path) -> Iterator[tuple[Path, float]]:
    """One photo of each size of the mix with its share; drawn unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, ((width, height), share) in enumerate(mix().items()):
        path = folder / f"{width}x{height}.jpg"
        if not path.exists():
            data = encode(draw(width, height, seed=0, index=index))
            layers.put(path, lambda part: part.write_bytes(data))
        yield path, share


def estimates(costs: Sequence[Cost], shares: Mapping[str, float], scale: Scale) -> list[Estimate]:
    """Ours with every model that was counted, and the winners' runtime where it was.

    Args:
      costs: With the photos' regions, and each network at the batch size of its runtime; without, nothing is said.
      shares: Of each photo, by name; they add up to 1.
      scale: Turns counts into times.
    """
    kinds = {"ours": (("decode", "resize"), BATCH), "winners": (("winners",), 1)}
    found = []
    for runtime, (steps, batch) in kinds.items():
        photos = [cost for cost in costs if cost.kind in steps]
        networks = [cost for cost in costs if cost.kind == "infer" and cost.batch == batch]
        for network in networks if photos else ():
            parts = [(shares[cost.name], cost) for cost in photos] + [(1 / batch, network)]
            low = sum(share * scale.range_ms(cost)[0] for share, cost in parts) / 10  # ms a photo -> s per 100
            high = sum(share * scale.range_ms(cost)[1] for share, cost in parts) / 10
            least, most = GAIN_OF_4_CORES
            four = low / most, high / least
            score = latency_score(four[1]), latency_score(four[0])
            found.append(Estimate(runtime, network.name, (low, high), four, score))
    return found
