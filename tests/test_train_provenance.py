import pytest

from bench.dataset import Sample
from bench.provenance import cluster_marks, picture_marks
from train.leakage.checks import LeakError, check_disjoint


def samples(*clusters):
    return [Sample(f"{i}.jpg", "ash", "g1", cluster) for i, cluster in enumerate(clusters)]


def test_a_teacher_that_saw_the_held_out_clusters_or_pictures_is_refused(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(b"picture %d" % i)
    marks = frozenset(cluster_marks(samples("p1", "p2", "p3")))
    check_disjoint(marks, samples("p4", "p5"), tmp_path)
    check_disjoint(marks, [], tmp_path)
    with pytest.raises(LeakError, match="on 2 of the 3 clusters held out, e.g. p2") as caught:
        check_disjoint(marks, samples("p2", "p3", "p3", "p4"), tmp_path)
    assert caught.value.exit_status == 6
    with pytest.raises(LeakError, match="does not say which clusters"):
        check_disjoint(None, samples("p4"), tmp_path)
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "0.jpg").write_bytes(b"picture 1")  # the same picture under other names of file and cluster
    pictures = frozenset(picture_marks(tmp_path / "seen", samples("elsewhere")))
    with pytest.raises(LeakError, match="on 1 of the pictures held out"):
        check_disjoint(pictures, samples("p1", "p2"), tmp_path)
