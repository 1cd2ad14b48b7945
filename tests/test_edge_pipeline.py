"""The pipeline's promises: order, bounds, one failure ends the run, none hangs it."""

import gc
import heapq
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image
from sample_images import TINY_MODEL, encoded, photo

from edge import Classifier
from edge.memory_gate import BASE_BYTES, FREE_BYTES
from edge.photo.preprocess import Loaded, Preprocess
from edge.pipeline import RunOptions, run


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
    expected = rows(run(classifier, sources, RunOptions(workers=1, batch_size=1)))
    assert rows(run(classifier, sources, RunOptions(workers=workers, batch_size=batch_size))) == expected
    assert [i for i, row in enumerate(expected) if row[2] == "error"] == [9, 24]


def test_no_images_give_no_rows(classifier):
    assert list(run(classifier, [])) == []


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"batch_size": 0}])
def test_nonsense_is_refused_at_once(classifier, arguments):
    with pytest.raises(ValueError, match="expected at least 1"):
        run(classifier, PHOTOS, RunOptions(**arguments))


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

    results = run(with_preprocess(SlowFirst(size_px=32)), sources(), RunOptions(workers=3, batch_size=4))
    next(results)
    assert len(taken) <= 3 * 16 + 1  # the window, and what one step lets in
    assert len(list(results)) == 200


def test_the_largest_file_of_the_window_goes_first(tmp_path, monkeypatch):
    sizes = [3, 1, 5, 2, 4] * 10
    paths = []
    for i, size in enumerate(sizes):
        paths.append(tmp_path / f"{i}.jpg")
        paths[-1].write_bytes(PHOTOS[0] + bytes(1000 * size))
    order = []
    load = Preprocess.load
    monkeypatch.setattr(
        Preprocess, "load", lambda self, source, **options: order.append(source) or load(self, source, **options)
    )
    predictions = list(run(Classifier.load(TINY_MODEL), paths, RunOptions(workers=1, batch_size=4)))
    assert [p.path for p in predictions] == [str(p) for p in paths]  # results stay in input order
    first_window = [sizes[paths.index(path)] for path in order[:16]]
    assert first_window[:15] == sorted(sizes[:16], reverse=True)[:15]
    assert sorted(order) == sorted(paths)


def test_a_source_that_waits_for_its_own_results(classifier):
    """The next image comes only when the last one is answered: nothing may hold back, nothing may hang."""
    answered = threading.Semaphore(1)

    def sources():
        for i in range(6):
            assert answered.acquire(timeout=10)
            yield PHOTOS[i]

    num_results = 0
    for _ in run(classifier, sources(), RunOptions(workers=2, batch_size=4)):
        num_results += 1
        answered.release()
    assert num_results == 6


def test_closing_while_the_source_waits(classifier):
    never = threading.Event()

    def sources():
        yield PHOTOS[0]
        never.wait(20)

    results = run(classifier, sources(), RunOptions(workers=2))
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
    never.set()


def test_bytes_are_not_read_ahead(classifier):
    taken = []

    def sources():
        for i in range(100):
            taken.append(i)
            yield PHOTOS[0]

    results = run(classifier, sources(), RunOptions(workers=1, batch_size=1))
    next(results)
    results.close()
    assert len(taken) <= 18
    assert rows(run(classifier, PHOTOS, RunOptions(workers=3))) == rows(run(classifier, PHOTOS, RunOptions(workers=1)))


def test_workers_take_no_more_than_the_window_ahead_of_a_slow_consumer(classifier):
    taken = []

    def sources():
        for i in range(500):
            taken.append(i)
            yield PHOTOS[0]

    results = run(classifier, sources(), RunOptions(workers=2, batch_size=4))
    next(results)
    time.sleep(0.3)
    assert len(taken) <= 1 + 2 * 16
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("edge-worker")]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_unexpected_exception_ends_the_run(classifier, workers):
    class Broken(Preprocess):
        def load(self, source, **options):
            if source is PHOTOS[5]:
                raise ZeroDivisionError("a bug")
            return super().load(source, **options)

    results = run(with_preprocess(Broken(size_px=32)), PHOTOS, RunOptions(workers=workers, batch_size=4))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("edge-worker")]


def test_interrupted_among_the_starts(classifier, monkeypatch):
    start, started = threading.Thread.start, []

    def interrupted(thread):
        start(thread)
        started.append(thread)
        if len(started) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(run(classifier, PHOTOS, RunOptions(workers=3)))
    assert len(started) == 2 and not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("step", ["is_alive", "join"])
def test_interrupted_while_stopping(classifier, monkeypatch, step):
    usual, stopped = getattr(threading.Thread, step), []

    def interrupted(thread):
        if thread not in stopped:
            stopped.append(thread)
            raise KeyboardInterrupt
        return usual(thread)

    results = run(classifier, PHOTOS * 4, RunOptions(workers=2))  # more than the window: both wait for room in it
    next(results)
    monkeypatch.setattr(threading.Thread, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.close()
    monkeypatch.undo()
    assert stopped and not any(thread.is_alive() for thread in stopped)
    assert not [t for t in threading.enumerate() if t.name.startswith("edge-worker")]


def test_a_second_interrupt_leaves_no_worker_inside_the_network(classifier, monkeypatch):
    inside, released, num_left = threading.Event(), threading.Event(), []

    def slow(batch):
        inside.set()
        released.wait(20)
        num_left.append(len(batch))
        return np.zeros((len(batch), len(classifier.classes)), np.float32)

    def interrupt():
        for _ in range(2):
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        released.set()

    monkeypatch.setattr(Classifier, "logits", lambda self, batch: slow(batch))
    results = run(classifier, [PHOTOS[0]], RunOptions(workers=1))
    threading.Timer(0.5, interrupt).start()  # the first while the consumer waits, the second while it stops the worker
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert inside.is_set() and num_left == [1]


def test_an_abandoned_run_is_collected_by_a_worker_that_holds_the_lock(monkeypatch):
    class Slow(Preprocess):
        def load(self, source, **options):
            time.sleep(0.2)  # so that the consumer has let go when the next source is taken
            return super().load(source, **options)

    is_abandoned, collected = threading.Event(), threading.Event()

    def collecting(heap, item):
        heapq.heappush(heap, item)
        if is_abandoned.is_set():
            gc.collect()
            collected.set()

    def abandon():
        results = run(with_preprocess(Slow(size_px=32)), PHOTOS * 2, RunOptions(workers=2, batch_size=1))
        cycle = [results]
        cycle.append(cycle)
        next(results)

    monkeypatch.setattr("edge.pipeline.heappush", collecting)
    gc.disable()
    try:
        abandon()
        is_abandoned.set()
        assert collected.wait(20)
    finally:
        gc.enable()
    deadline = time.monotonic() + 20
    while (alive := [t for t in threading.enumerate() if t.name.startswith("edge-")]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


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

    list(run(with_preprocess(Spy(size_px=32)), PHOTOS, RunOptions(workers=2, batch_size=4)))
    assert 1 <= len(buffers) <= 2


def test_times_are_positive_and_shared_by_the_batch(classifier):
    predictions = list(run(classifier, PHOTOS[:4], RunOptions(workers=1, batch_size=4)))
    assert len({p.infer_ms for p in predictions}) == 1
    assert all(p.decode_ms > 0 and p.infer_ms > 0 for p in predictions)


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
    monkeypatch.setattr("edge.memory_gate.FREE_BYTES", 1)
    monkeypatch.setattr("edge.memory_gate.GATE_BYTES", 1)
    list(run(classifier, [encoded(photo(64, 64), "PNG")] * 6, RunOptions(workers=3)))
    assert max(most) == 1


def test_batches_are_full_when_there_are_enough_images(monkeypatch):
    classifier = Classifier.load(TINY_MODEL)
    sizes = []
    logits = classifier.logits
    monkeypatch.setattr(classifier, "logits", lambda batch: sizes.append(len(batch)) or logits(batch))
    list(run(classifier, PHOTOS[:10], RunOptions(workers=1, batch_size=4)))
    assert sizes == [4, 4, 2]
    assert np.sum(sizes) == 10


@pytest.mark.parametrize(("format", "needed_mb"), [("PNG", 48), ("WEBP", 96)])
def test_an_image_beyond_the_memory_limit_is_a_row_that_says_so(classifier, format, needed_mb):
    large = encoded(Image.new("RGB", (3000, 2000)), format, compress_level=1, method=0)
    (prediction,) = run(classifier, [large], RunOptions(max_memory_bytes=BASE_BYTES + 2 * FREE_BYTES, workers=1))
    assert prediction.error == f"needs about {needed_mb} MB to decode, at most 17 (see --max-memory)"
    assert prediction.width == 3000
    (prediction,) = run(classifier, [large], RunOptions(max_memory_bytes=BASE_BYTES + 8 * FREE_BYTES, workers=1))
    assert prediction.status == "ok"
