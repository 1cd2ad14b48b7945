import dataclasses

import numpy as np
from sample_networks import labelled_images

from train.config import AugmentConfig, TrainConfig
from train.data.contact_sheet import choose, contact_sheet

CONFIG = TrainConfig().changed(sizes_px=(32,))
STILL = AugmentConfig(p_hflip=0, p_vflip=0, quarter_turns=False, p_affine=0)


def test_classes_and_groups_come_in_turn():
    labels = ["ash"] * 50 + ["Birch"] * 4 + ["cedar"]
    groups = ["a", "b"] * 25 + ["a", "a", "a", "b"] + ["a"]
    chosen = choose(labels, groups, 5, seed=0)
    assert [(labels[i], groups[i]) for i in chosen] == [
        ("ash", "a"), ("ash", "b"), ("Birch", "a"), ("Birch", "b"), ("cedar", "a"),
    ]
    assert chosen != choose(labels, groups, 5, seed=1)
    assert sorted(choose(labels, groups, 99, seed=0)) == list(range(55))


def test_a_sheet_has_the_original_and_its_variants():
    pictures = labelled_images(3, 36)[0]
    config = dataclasses.replace(CONFIG, augment=STILL)
    sheet = np.asarray(contact_sheet(pictures, ["ash\ng1", "x" * 80, ""], config, seed=0, num_variants=2))
    assert sheet.dtype == np.uint8
    colours = (sheet.reshape(-1, 3) // 16).tolist()
    assert len({tuple(colour) for colour in colours}) > 50
    assert sheet.shape[0] > 3 * 96 and sheet.shape[1] > 3 * 96  # 32 px are shown three times as large


def test_seeds_differ_and_repeat():
    pictures = labelled_images(2, 36)[0]
    first, again, other = (contact_sheet(pictures, ["a", "b"], CONFIG, seed=seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_balance_shows_noise_beyond_the_first_variant():
    pictures = np.full((1, 36, 36, 3), 128, np.uint8)
    targets = {"sampler": "balance", "targets": ("ash:1",)}
    config = dataclasses.replace(CONFIG.changed(**targets), augment=STILL)
    sheet = np.asarray(contact_sheet(pictures, [""], config, seed=0, num_variants=2))[40:100]
    is_plain = (sheet == 128).all(axis=(0, 2)).sum()
    assert is_plain == 2 * 96  # columns of the original and of the first variant
