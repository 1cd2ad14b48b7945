import contextlib
import dataclasses
import os
import threading

import cv2
import numpy as np
import pytest
import torch
from sample_networks import dataset, labelled_images

import train.data.feeder
from bench.dataset import DatasetError, index
from edge.photo.preprocess import Preprocess
from train.config import AugmentConfig
from train.data.augment import draw, render, step_rng, to_tensor
from train.data.feeder import View, feed, scale_tensor
from train.data.images import load_images, training_preprocess
from train.data.sampler import Batches

PREPROCESS = Preprocess(size_px=16)
LIVELY = AugmentConfig(p_perspective=0.5, p_cutout=0.5, p_jitter=0.5, p_noise=0.5)
SCALE = scale_tensor(Preprocess(scale=(1 / 255, 2 / 255, 1.0)))
IMAGES = labelled_images(12)[0]
NAMES = [f"img{i}" for i in range(12)]


def batches(num_steps=4, size=5, *, start=0):
    indices = np.random.default_rng(0).integers(12, size=(num_steps, size))
    return Batches(indices[start:], (indices % 2 == 0)[start:])


def fed(pixels=IMAGES, plan=None, *, config=LIVELY, size_px=24, first_step=7, **options):
    plan = batches() if plan is None else plan
    options = {"scale": SCALE, "seed": 3, "names": NAMES, "workers": 2, **options}
    return feed(pixels, plan, config, size_px=size_px, first_step=first_step, **options)


def feeding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feeder")]


@pytest.mark.parametrize("cached", [False, True])
def test_pixels_are_those_of_the_runtime(tmp_path, cached):
    samples = index(dataset(tmp_path / "data", 6))
    cache = tmp_path / "cache" if cached else None
    found = load_images(tmp_path / "data", samples, PREPROCESS, cache=cache, quiet=True)
    assert found.samples == samples and found.unusable == {}
    assert found.pixels.dtype == np.uint8 and found.pixels.flags.writeable != cached
    expected = [PREPROCESS(tmp_path / "data" / sample.path) for sample in samples]
    assert np.array_equal(found.pixels, expected)


@pytest.mark.parametrize("cached", [False, True])
def test_unusable_images_are_left_out_and_told(tmp_path, cached):
    samples = index(dataset(tmp_path / "data", 11))
    for i in (0, 4):
        (tmp_path / "data" / samples[i].path).write_bytes(b"" if i else b"\xff\xd8 broken")
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        found = load_images(tmp_path / "data", samples, PREPROCESS, cache=cache, quiet=True)
        assert list(found.unusable) == [samples[0].path, samples[4].path]
        assert "the file is empty" in found.unusable[samples[4].path]
        assert found.samples == samples[1:4] + samples[5:] and found.pixels.shape == (9, 16, 16, 3)
        assert np.array_equal(found.pixels[3], PREPROCESS(tmp_path / "data" / samples[5].path))


@pytest.mark.parametrize("cached", [False, True])
def test_no_usable_image_at_all(tmp_path, cached):
    samples = index(dataset(tmp_path / "data", 2))
    for sample in samples:
        (tmp_path / "data" / sample.path).write_bytes(b"")
    cache = tmp_path / "cache" if cached else None
    with pytest.raises(DatasetError, match=r"data: none of 2 images can be used, e.g. .*\.png: the file is empty"):
        load_images(tmp_path / "data", samples, PREPROCESS, cache=cache, quiet=True)
    assert not cached or list(cache.iterdir()) == []


def test_a_cache_is_used_until_something_that_decides_its_pixels_changes(tmp_path, monkeypatch):
    root, cache = dataset(tmp_path / "data", 3), tmp_path / "cache"
    samples = index(root)
    decoded = []
    original = Preprocess.load
    monkeypatch.setattr(Preprocess, "load", lambda self, path: decoded.append(path) or original(self, path))

    def count(preprocess=PREPROCESS, samples=samples):
        decoded.clear()
        load_images(root, samples, preprocess, cache=cache, quiet=True)
        return len(decoded)

    assert [count(), count(), count(dataclasses.replace(PREPROCESS, scale=0.5))] == [3, 0, 0]
    stretched = dataclasses.replace(PREPROCESS, resize="stretch")
    assert [count(stretched), count(samples=samples[::-1]), count()] == [3, 3, 0]
    os.utime(root / samples[0].path, ns=(1, 1))
    assert [count(), count()] == [3, 0]


def test_what_becomes_readable_again_is_taken_in(tmp_path):
    root, cache = dataset(tmp_path / "data", 3), tmp_path / "cache"
    samples = index(root)
    path = root / samples[1].path
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(b"\0" * len(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(load_images(root, samples, PREPROCESS, cache=cache, quiet=True).samples) == 2
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(load_images(root, samples, PREPROCESS, cache=cache, quiet=True).samples) == 3


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:100], "cut short"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: b"other" * 500, "cut short"),
        (lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "do not have their checksum"),
        (lambda data: data.replace(b'"key": "', b'"key": "0'), "other files or preprocessing"),
    ],
)
def test_a_damaged_cache_is_one_clear_line(tmp_path, damage, message):
    root, cache = dataset(tmp_path / "data", 3), tmp_path / "cache"
    samples = index(root)
    load_images(root, samples, PREPROCESS, cache=cache, quiet=True)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=rf"16px-.*\.npy: .*{message}.*delete it") as caught:
        load_images(root, samples, PREPROCESS, cache=cache, quiet=True)
    assert "\n" not in str(caught.value)


def test_numpy_opens_a_cache(tmp_path):
    root, cache = dataset(tmp_path / "data", 3), tmp_path / "cache"
    found = load_images(root, index(root), PREPROCESS, cache=cache, quiet=True)
    (path,) = cache.iterdir()
    assert np.array_equal(np.load(path, mmap_mode="r"), found.pixels)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    root, cache = dataset(tmp_path / "data", 3), tmp_path / "cache"

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        load_images(root, index(root), PREPROCESS, cache=cache, quiet=True)
    assert list(cache.iterdir()) == []


def test_the_margin_is_of_the_side_alone():
    larger = training_preprocess(Preprocess(size_px=128, resize="crop"), margin=0.125)
    assert larger == Preprocess(size_px=144, resize="crop")
    assert training_preprocess(Preprocess(size_px=4000), margin=1).size_px == 4096


def test_batches_come_in_order_and_are_a_function_of_seed_and_step():
    plan = batches()
    found = list(fed())
    assert [batch.indices.tolist() for batch in found] == plan.indices.tolist()
    for step, batch in enumerate(found):
        changes = draw(5, LIVELY, step_rng(3, 7 + step), is_repeat=plan.is_repeat[step])
        images = render(IMAGES[plan.indices[step]], changes, size_px=24)
        assert torch.equal(batch.images, to_tensor(images, changes, scale=SCALE))
    resumed = list(fed(plan=batches(start=2), first_step=9, workers=3))
    assert all(torch.equal(a.images, b.images) for a, b in zip(found[2:], resumed, strict=True))
    other = next(fed(seed=4))
    assert not torch.equal(found[0].images, other.images)


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_ranks_render_the_parts_of_one(num_ranks):
    ranks = [list(fed(rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    for whole, *parts in zip(fed(), *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert all((part.indices == whole.indices).all() for part in parts)


def test_a_view_has_the_geometry_without_the_noise():
    larger = np.repeat(np.repeat(IMAGES, 2, axis=1), 2, axis=2)
    noisy = dataclasses.replace(LIVELY, p_noise=1.0)
    for batch in fed(config=noisy, views=[View(IMAGES, 24), View(larger, 48)]):
        own, wide = batch.views
        assert own.shape == (5, 24, 24, 3) and wide.shape == (5, 48, 48, 3) and wide.dtype == np.uint8
        clean = torch.from_numpy(own).permute(0, 3, 1, 2) * SCALE
        assert 0 < (batch.images - clean).abs().max() < 6 * 0.0102 * 255 * SCALE.max()


def test_threads_end_with_the_iterator():
    with contextlib.closing(fed()) as rendered:
        next(rendered)
        assert feeding_threads()
    assert not feeding_threads()
    assert len(list(fed())) == 4 and not feeding_threads()
    with pytest.raises(KeyboardInterrupt), contextlib.closing(fed()) as rendered:
        next(rendered)
        raise KeyboardInterrupt
    assert not feeding_threads()


def test_no_more_than_two_batches_are_rendered_ahead(monkeypatch):
    started = []
    monkeypatch.setattr(train.data.feeder, "step_rng", lambda *args: started.append(args) or step_rng(*args))
    for done, _ in enumerate(fed(plan=batches(8)), start=1):
        assert len(started) == min(8, done + 2)


def test_an_error_in_a_thread_names_the_pictures(monkeypatch):
    def refuse(*_, **__):
        raise cv2.error("out of\nmemory")

    monkeypatch.setattr(train.data.augment.cv2, "warpPerspective", refuse)
    with pytest.raises(DatasetError, match="cannot be warped: out of memory: one of img") as caught:
        next(fed())
    assert "\n" not in str(caught.value) and not feeding_threads()
