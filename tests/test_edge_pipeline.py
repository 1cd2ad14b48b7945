"""The pipeline's promises: order, bounds, one failure ends the run, none hangs it."""

import threading
import time

import numpy as np
import pytest
from sample_images import TINY_MODEL, encoded, photo

from edge import Classifier
from edge.pipeline import FREE_BYTES, MemoryGate, run
from edge.preprocess import Loaded, Preprocess


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(TINY_MODEL)


PHOTOS = [encoded(photo(48, 48, seed=i)) for i in range(23)]


def rows(predictions):
    return [(p.label, p.confidence, p.status, p.error) for p in predictions]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_results_do_not_depend_on_workers_or_batch(classifier, workers, batch_size):
    sources = [*PHOTOS[:9], b"broken", *PHOTOS[9:], b""]
    expected = rows(run(classifier, sources, workers=1, batch_size=1))
    assert rows(run(classifier, sources, workers=workers, batch_size=batch_size)) == expected
    assert [i for i, row in enumerate(expected) if row[2] == "error"] == [9, 24]


def test_no_images_give_no_rows(classifier):
    assert list(run(classifier, [])) == []


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"batch_size": 0}])
def test_nonsense_is_refused_at_once(classifier, arguments):
    with pytest.raises(ValueError, match="expected at least 1"):
        run(classifier, PHOTOS, **arguments)


class SlowFirst(Preprocess):
    """Decodes its first image slowly, so that the others finish before it."""

    def load(self, source, **options):
        if source == b"slow":
            time.sleep(0.3)
            source = PHOTOS[0]
        return super().load(source, **options)


def with_preprocess(preprocess):
    classifier = Classifier.load(TINY_MODEL)
    classifier.preprocess = preprocess
    return classifier


def test_a_slow_first_image_stalls_the_window_not_the_run():
    taken = []

    def sources():
        yield b"slow"
        for i in range(200):
            taken.append(i)
            yield PHOTOS[i % len(PHOTOS)]

    results = run(with_preprocess(SlowFirst(size_px=32)), sources(), workers=3, batch_size=4)
    next(results)
    assert len(taken) <= 2 * 3 * 4 + 4  # the window, and what one step lets in
    assert len(list(results)) == 200


def test_workers_take_no_more_than_the_window_ahead_of_a_slow_consumer(classifier):
    taken = []

    def sources():
        for i in range(500):
            taken.append(i)
            yield PHOTOS[0]

    results = run(classifier, sources(), workers=2, batch_size=4)
    next(results)
    time.sleep(0.3)
    assert len(taken) <= 1 + 2 * 2 * 4
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("edge-worker")]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_unexpected_exception_ends_the_run(classifier, workers):
    class Broken(Preprocess):
        def load(self, source, **options):
            if source is PHOTOS[5]:
                raise ZeroDivisionError("a bug")
            return super().load(source, **options)

    results = run(with_preprocess(Broken(size_px=32)), PHOTOS, workers=workers, batch_size=4)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("edge-worker")]


def test_a_broken_source_iterator_ends_the_run(classifier):
    def sources():
        yield PHOTOS[0]
        raise RuntimeError("the list went away")

    with pytest.raises(RuntimeError, match="went away"):
        list(run(classifier, sources()))


def test_every_image_is_decoded_into_the_workers_buffer(classifier):
    buffers = set()

    class Spy(Preprocess):
        def load(self, source, *, out=None, **options):
            assert out is not None and out.base is not None
            buffers.add(id(out.base))
            return Loaded(out, 1, 1, 0.0, 0.0)

    list(run(with_preprocess(Spy(size_px=32)), PHOTOS, workers=2, batch_size=4))
    assert 1 <= len(buffers) <= 2


def test_times_are_positive_and_shared_by_the_batch(classifier):
    predictions = list(run(classifier, PHOTOS[:4], workers=1, batch_size=4))
    assert len({p.infer_ms for p in predictions}) == 1
    assert all(p.decode_ms > 0 and p.infer_ms > 0 for p in predictions)


def test_gate_lets_small_images_pass_and_large_ones_wait():
    gate = MemoryGate(limit_bytes=2 * FREE_BYTES)
    order = []

    def decode(name, num_bytes):
        with gate.image() as admit:
            admit(num_bytes)
            order.append(name)

    with gate.image() as admit:
        admit(2 * FREE_BYTES)
        waiting = threading.Thread(target=decode, args=("large", FREE_BYTES))
        waiting.start()
        decode("small", FREE_BYTES - 1)
        time.sleep(0.05)
        assert order == ["small"]
    waiting.join(5)
    assert order == ["small", "large"]


def test_gate_admits_one_that_is_larger_than_the_limit_and_survives_failures():
    gate = MemoryGate(limit_bytes=FREE_BYTES)
    for _ in range(2):
        with pytest.raises(RuntimeError), gate.image() as admit:
            admit(100 * FREE_BYTES)
            raise RuntimeError


def test_a_large_image_is_held_until_it_is_resized(classifier, monkeypatch):
    """A PNG keeps all its pixels after decoding, so the gate must not open before the resize is done."""
    inside = []
    most = []
    place = Preprocess._place

    def slow_place(self, decoded, out):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        place(self, decoded, out)
        inside.pop()

    monkeypatch.setattr(Preprocess, "_place", slow_place)
    monkeypatch.setattr("edge.pipeline.FREE_BYTES", 1)
    monkeypatch.setattr("edge.pipeline.MemoryGate.__init__.__defaults__", (1,))
    list(run(classifier, [encoded(photo(64, 64), "PNG")] * 6, workers=3))
    assert max(most) == 1


def test_batches_are_full_when_there_are_enough_images(monkeypatch):
    classifier = Classifier.load(TINY_MODEL)
    sizes = []
    logits = classifier.logits
    monkeypatch.setattr(classifier, "logits", lambda batch: sizes.append(len(batch)) or logits(batch))
    list(run(classifier, PHOTOS[:10], workers=1, batch_size=4))
    assert sizes == [4, 4, 2]
    assert np.sum(sizes) == 10
