"""Scaled against full decoding: what counts as a flip, and photos made as large as the contest's."""

import pytest
from sample_images import TINY_MODEL, encoded, folder_of_photos, photo

from edge import Classifier
from research import fidelity
from research.__main__ import main
from research.fidelity import Comparison


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(TINY_MODEL)


def test_small_photos_are_decoded_alike(tmp_path, classifier):
    folder = folder_of_photos(tmp_path / "photos", 3, size=(40, 30))
    found = list(fidelity.compare(classifier, [str(folder / f"img{i}.jpg") for i in range(3)]))
    assert [c.psnr_db for c in found] == [float("inf")] * 3
    assert all(c.scaled_label == c.full_label and c.max_change == 0 for c in found)
    assert fidelity.summarize(found)["decoded_alike"] == 3


def test_large_photos_differ_a_little(tmp_path, classifier):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo(801, 601), quality=90))
    (found,) = fidelity.compare(classifier, [str(path)])
    assert 40 < found.psnr_db < 80
    assert 0 < found.max_change < 0.1
    assert 0 <= found.margin <= 1


def test_summary_counts_flips():
    found = [Comparison("a", 1, 1, 0.5, 0.01, 50.0), Comparison("b", 1, 2, 0.02, 0.03, 45.0)]
    summary = fidelity.summarize(found)
    assert summary["agreement"] == 0.5
    assert summary["flips"] == [{"path": "b", "margin": 0.02}]
    assert (summary["smallest_margin"], summary["largest_change"]) == (0.02, 0.03)
    assert summary["psnr_db"] == {"min": 45.0, "median": 47.5}


def test_command_leaves_out_what_is_broken(tmp_path, capsys):
    folder = folder_of_photos(tmp_path / "photos", 3)
    (folder / "bad.jpg").write_bytes(b"")
    assert main(["fidelity", str(folder), "-m", str(TINY_MODEL)]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("3 photos, 3 with the label of a full decode (100.00%)")
    assert "1 of 4 images cannot be used: left out" in captured.err


def test_photos_none_of_which_can_be_used_are_3(tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"")
    assert main(["fidelity", str(tmp_path), "-m", str(TINY_MODEL), "-q"]) == 3
    assert "none of 1 images can be used" in capsys.readouterr().err


@pytest.mark.slow
def test_enlarged_photos_have_contest_sizes(tmp_path, classifier):
    folder = folder_of_photos(tmp_path / "photos", 4)
    found = list(fidelity.compare(classifier, [str(p) for p in folder.iterdir()], enlarge=True))
    assert len(found) == 4
    assert min(c.psnr_db for c in found) > 40
