"""The table of changes: what each is called, how strong it is, and the function that makes it.

docs/robustness.md has names and strengths with their sources; a test holds the two together.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PIL import Image

from . import framing, light

_QUALITY = 95  # of a JPEG whose quality is not the change
_EXACT_PIXELS = 150_000
"""Smaller pictures are saved exactly, as BMP: no network of 128 px or more has JPEGs of that size decoded scaled, and
saving as JPEG alone changes some answers."""


@dataclass(frozen=True)
class Change:
    """One change of one strength."""

    kind: str  # the strengths of a kind are drawn in one picture
    strength: str  # in words
    apply: Callable[[Image.Image], Image.Image] = Image.Image.copy  # upright RGB picture -> the changed one
    quality: int | None = None
    """JPEG quality that the changed picture is saved with; None: exactly where it is small, else at 95."""

    @property
    def name(self) -> str:
        """As in the results and for `--fail-under`: kind and strength."""
        sign = "" if self.strength[0] in "+-" else "-"
        return f"{self.kind}{sign}{self.strength.replace(' ', '')}"

    def file_of(self, image: Image.Image) -> bytes:
        """The changed picture as a photo file; a JPEG has its colours halved, as cameras do."""
        changed, file = self.apply(image), io.BytesIO()
        if self.quality is None and changed.width * changed.height < _EXACT_PIXELS:
            changed.save(file, "BMP")
        else:
            changed.save(file, "JPEG", quality=self.quality or _QUALITY, subsampling="4:2:0")
        return file.getvalue()


_TURNS = {
    "90": Image.Transpose.ROTATE_90,
    "180": Image.Transpose.ROTATE_180,
    "270": Image.Transpose.ROTATE_270,
    "mirror": Image.Transpose.FLIP_LEFT_RIGHT,
    "mirror-90": Image.Transpose.TRANSPOSE,
    "mirror-180": Image.Transpose.FLIP_TOP_BOTTOM,
    "mirror-270": Image.Transpose.TRANSVERSE,
}
"""Mirrored left to right or not, then turned by so many degrees against the clock."""

CHANGES = (
    *(
        Change(f"border-{colour}", f"{across}:{down}", partial(framing.border, ratio=(across, down), colour=colour))
        for colour in ("black", "white", "edge")
        for across, down in ((3, 4), (1, 1), (3, 2), (16, 9))
    ),
    *(Change("crop", f"{w}:{h}", partial(framing.crop, ratio=(w, h))) for w, h in ((3, 4), (1, 1), (3, 2))),
    *(Change("short-side", f"{px} px", partial(framing.resize, short_px=px)) for px in (64, 96, 192, 1800, 4000)),
    *(Change("shift", f"{share}", partial(framing.shift, share=share)) for share in (0.1, 0.2)),
    *(Change("turn", name, partial(framing.turn, way=way)) for name, way in _TURNS.items()),
    *(Change("jpeg", f"{quality}", quality=quality) for quality in (75, 50, 30)),
    *(Change("blur", f"{sigma} px", partial(light.blur, sigma=sigma)) for sigma in (1, 2, 3)),
    *(Change("noise", f"{photons}", partial(light.noise, photons=photons)) for photons in (60, 25, 12)),
    *(
        Change("exposure", f"{stops:+.2g} EV", partial(light.exposure, stops=stops))
        for stops in (-2.0, -1.0, -0.5, 1 / 3, 2 / 3, 1.0)
    ),
    *(
        Change("white-balance", f"{kelvin} K", partial(light.white_balance, kelvin=kelvin))
        for kelvin in (3000, 3650, 4700, 7150, 8000, 9000)  # a third, two thirds and the whole way in mired
    ),
    *(
        Change("saturation", f"{factor}", partial(light.saturation, factor=factor))
        for factor in (0.1, 0.3, 0.6, 1.2, 1.5, 2)
    ),
)
"""Every change that is measured, the strengths of a kind in the order in which they are drawn."""

TURN = "turn"
"""The kind that also has a mean: no way to hold a camera is stronger than another."""
