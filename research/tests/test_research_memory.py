"""Peak memory as the kernel sees it: the kinds are what they claim, and a run is accounted for."""

import io

import pytest
from PIL import Image
from sample_images import TINY_MODEL

from research import memory


def test_kinds_are_what_they_claim(monkeypatch):
    monkeypatch.setattr("research.memory.scene.draw", lambda width, height: Image.new("RGB", (width // 8, height // 8)))
    for kind in memory.KINDS:
        image = Image.open(io.BytesIO(memory.photo(kind)))
        assert image.format == ("PNG" if "PNG" in kind else "JPEG")
        assert ("progressive" in image.info) == ("progressive" in kind)
        if image.format == "JPEG":  # how often the chroma is halved
            assert image.layer[0][1:3] == ((1, 1) if "4:4:4" in kind else (2, 2))


def test_growth_watches_a_run():
    early_mb, late_mb = memory.growth(TINY_MODEL, workers=2, count=60)
    assert 0 < early_mb < 300 and 0 < late_mb < 300


@pytest.mark.slow
def test_peak_of_24_megapixel_photos_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "KINDS", {"24 MP baseline": memory.KINDS["24 MP baseline"]})
    ((kind, workers, peak_mb),) = memory.by_kind(TINY_MODEL, workers=[4], count=12)
    assert (kind, workers) == ("24 MP baseline", 4)
    assert peak_mb < 200
