"""The pieces of work that are counted under emulation and timed on a board: the same code in both.

    python -m bench.pi4b.regions SPEC.json

runs them between the marks of `counter.c`, in a tree, and prints what each was as one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge.decode import Decoded, decode
from edge.preprocess import Preprocess

from . import counter

PHOTO_KINDS = ("decode", "resize", "winners")
"""What is done to a photo: ours in two steps, and all that the contest's winners do before the network."""


@dataclass(frozen=True)
class Spec:
    """What to run."""

    photos: tuple[str, ...] = ()
    """Files to decode and resize."""
    preprocess: str = Preprocess().to_json()
    """How: `Preprocess` as JSON. Not read from a model, since onnxruntime's threads would move every buffer."""
    models: tuple[str, ...] = ()
    """Model files."""
    batches: tuple[int, ...] = ()
    """Images per call of each network."""
    winners: bool = False
    """Whether the photos are also prepared as the contest's winners do; needs OpenCV."""

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The inverse of `json.dumps(asdict(spec))`."""
        values: dict[str, Any] = json.loads(text)
        arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**arguments)


@dataclass(frozen=True)
class Region:
    """One piece of work."""

    kind: str
    """One of `PHOTO_KINDS`, or "infer"."""
    path: str
    """The photo or the model."""
    batch: int
    """Images per call of the network; 1 for photos."""
    run: Callable[[], object]
    """Does it; a second call does the same again."""


def regions(spec: Spec) -> Iterator[Region]:
    """The regions of a spec, in order; what one needs is made before it, outside of it."""
    preprocess = Preprocess.from_json(spec.preprocess)
    for path in spec.photos:
        yield from _photo(path, preprocess)
    if spec.winners:
        from ..peers import winners_pixels  # OpenCV, which ours does without

        for path in spec.photos:
            yield Region("winners", path, 1, _bound(winners_pixels, path, preprocess.size_px))
    if spec.models:
        from edge.classifier import Classifier  # after the photos: see `Spec.preprocess`
    for path in spec.models:
        classifier = Classifier.load(path)
        side = classifier.preprocess.size_px
        for size in spec.batches:
            batch = np.random.default_rng(0).integers(0, 256, (size, side, side, 3)).astype(np.uint8)
            yield Region("infer", path, size, _bound(classifier.logits, batch))


def _photo(path: str, preprocess: Preprocess) -> Iterator[Region]:
    decoded: list[Decoded] = []

    def needed_size(width: int, height: int) -> tuple[int, int]:
        fill_width, fill_height = preprocess.fill_size(width, height)
        return preprocess.draft_factor * fill_width, preprocess.draft_factor * fill_height

    def read_and_decode() -> None:
        decoded[:] = [decode(path, needed_size=needed_size if preprocess.draft_factor else None)]

    def resize() -> Image.Image:
        (picture,) = decoded
        size = preprocess.fill_size(*picture.size)
        return picture.image.resize(size, Image.Resampling.BILINEAR, box=picture.box)

    yield Region("decode", path, 1, read_and_decode)
    yield Region("resize", path, 1, resize)


def _bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the regions of a spec; see the module's first lines."""
    gc.disable()  # else some region pays for looking through all objects, now this one and now that
    mark = ctypes.CDLL(None).syscall
    spec = Spec.from_json(Path(arguments[0]).read_text())
    warm: set[str] = set()
    for tag, region in enumerate(regions(spec)):
        # What the first photo imports is not its cost; a network's first call sets up what later ones use.
        if region.kind == "infer" or region.kind not in warm:
            region.run()
            warm.add(region.kind)
        mark(counter.MARK, -2)
        region.run()
        mark(counter.MARK, tag)
        print(json.dumps([region.kind, region.path, region.batch]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
