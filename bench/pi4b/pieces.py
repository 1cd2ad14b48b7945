"""The pieces of work that are counted under emulation and timed on a board: the same code in both.

    python -m bench.pi4b.pieces SPEC.json

runs them between the marks of `counter.c`, in a tree, and prints what each was as one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edge.memory_gate import MemoryGate
from edge.photo.decode import Admit, Decoded, PixelLimits, Source
from edge.photo.preprocess import Preprocess

MARK = 9999
"""The system call that ends a region, as in counter.c."""


@dataclass(frozen=True)
class Spec:
    """What to run."""

    photos: Sequence[str] = ()  # files to decode and resize
    preprocess: str = Preprocess().to_json()
    """How. Not read from a model, since onnxruntime's threads would move every buffer."""
    models: Sequence[str] = ()  # model files
    batches: Sequence[int] = ()  # images per call of each network
    winners: bool = False  # whether the photos are also prepared as the contest's winners do; needs OpenCV


@dataclass(frozen=True)
class Region:
    """One piece of work."""

    kind: str  # "decode", "resize": ours in two steps; "winners": all that they do before the network; "infer"
    path: str  # of the photo or the model
    batch: int  # images per call of the network; 1 for photos
    run: Callable[[], object]
    """Does it; a second call does the same again."""


def regions(spec: Spec) -> Iterator[Region]:
    """The regions of a spec, in order; what one needs is made before it, outside of it."""
    preprocess = Preprocess.from_json(spec.preprocess)
    for path in spec.photos:
        yield from _photo(path, preprocess)
    if spec.winners:
        from ..speed.peers import winners_pixels  # OpenCV, which ours does without

        for path in spec.photos:
            yield Region("winners", path, 1, partial(winners_pixels, path, preprocess.size_px))
    if spec.models:
        from edge.classifier import Classifier  # after the photos: see `Spec.preprocess`
    for path in spec.models:
        classifier = Classifier.load(path)
        side = classifier.preprocess.size_px
        for size in spec.batches:
            batch = np.random.default_rng(0).integers(0, 256, (size, side, side, 3)).astype(np.uint8)
            yield Region("infer", path, size, partial(classifier.logits, batch))


def _photo(path: str, preprocess: Preprocess) -> Iterator[Region]:
    """All that a worker of the pipeline does to a photo, in two steps: `Preprocess.load`, each time without the other.

    So whatever is added to the shipped code is counted, in the one or the other.
    """
    decoded: list[Decoded] = []
    gate = MemoryGate()

    class Decoding(Preprocess):
        """Ends where the decoder does."""

        def _place(self, picture: Decoded, out: np.ndarray) -> None:
            decoded[:] = [picture]

    class Placing(Preprocess):
        """Begins there."""

        def _decode(self, source: Source, limits: PixelLimits, admit: Admit | None) -> Decoded:
            return decoded[0]

    decoding, placing = (kind.from_json(preprocess.to_json()) for kind in (Decoding, Placing))
    (out,) = np.empty((1, preprocess.size_px, preprocess.size_px, 3), np.uint8)  # a row of a batch

    def read_and_decode() -> None:
        with gate.image() as admit:
            decoding.load(path, out=out, admit=admit)

    yield Region("decode", path, 1, read_and_decode)
    yield Region("resize", path, 1, lambda: placing.load(path, out=out).pixels)


def main(arguments: Sequence[str]) -> int:
    """Runs the regions of a spec; see the module's first lines."""
    gc.disable()  # else some region pays for looking through all objects, now this one and now that
    mark = ctypes.CDLL(None).syscall
    warm: set[str] = set()
    spec = Spec(**json.loads(Path(arguments[0]).read_text()))
    for tag, region in enumerate(regions(spec)):
        # What the first photo imports is not its cost; a network's first call sets up what later ones use.
        if region.kind == "infer" or region.kind not in warm:
            region.run()
            warm.add(region.kind)
        mark(MARK, -2)
        region.run()
        mark(MARK, tag)
        print(json.dumps([region.kind, region.path, region.batch]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
