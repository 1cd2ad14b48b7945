import numpy as np
import pytest
import torch
from sample_networks import dataset, labelled_images

from bench.dataset import DatasetError, index
from edge.preprocess import Preprocess
from train.config import TrainConfig
from train.data import augment, draw_epoch, load_images, scale_tensor

STILL = TrainConfig(rotate_deg=0.0, shift=0.0, zoom=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pixels_are_the_runtimes(tmp_path):
    samples = index(dataset(tmp_path, 6, side=40))
    preprocess = Preprocess(size_px=32)
    images = load_images(tmp_path, samples, preprocess)
    assert images.dtype == np.uint8
    assert all((image == preprocess(tmp_path / sample.path)).all() for image, sample in zip(images, samples))


def test_an_unusable_image_is_named(tmp_path):
    samples = index(dataset(tmp_path, 6))
    (tmp_path / samples[4].path).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"img4.png: the file is empty .*; take it out"):
        load_images(tmp_path, samples, Preprocess(size_px=32))


def test_epoch_as_it_is_is_a_permutation():
    labels = torch.tensor([0] * 7 + [1])
    assert draw_epoch(labels, class_power=1, generator=generator()).sort().values.tolist() == list(range(8))


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_classes_are_drawn_by_their_counts_power(power):
    labels = torch.tensor([0] * 900 + [1] * 100)
    shares = torch.tensor([900.0**power, 100.0**power])
    drawn = torch.cat([draw_epoch(labels, class_power=power, generator=generator(seed)) for seed in range(20)])
    assert (labels[drawn] == 0).double().mean().item() == pytest.approx((shares[0] / shares.sum()).item(), abs=0.01)


def test_without_warp_only_the_eight_symmetries_remain():
    images = torch.from_numpy(labelled_images(40)[0])
    scale = scale_tensor(Preprocess(scale=(1 / 255, 2 / 255, 1.0)))
    batch = augment(images, size_px=32, config=STILL, scale=scale, generator=generator())
    assert batch.shape == (40, 3, 32, 32) and batch.dtype == torch.float32
    seen = set()
    for image, warped in zip(images, batch / scale):
        upright = image.permute(2, 0, 1).float()
        symmetries = [turn for base in (upright, upright.flip(2)) for turn in (base.rot90(k, (1, 2)) for k in range(4))]
        errors = [(warped - symmetry).abs().max().item() for symmetry in symmetries]
        assert min(errors) < 0.05
        seen.add(errors.index(min(errors)))
    assert seen == set(range(8))


def test_warp_shrinks_is_seeded_and_stays_in_range():
    images = torch.from_numpy(labelled_images(8)[0])
    scale = scale_tensor(Preprocess())
    config = TrainConfig()
    first, again, other = (
        augment(images, size_px=24, config=config, scale=scale, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (8, 3, 24, 24)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0 <= first.min() and first.max() <= 1
