"""Networks and labelled images that the tests of train and export make for themselves."""

import csv

import numpy as np
import torch
from PIL import Image
from torch import nn

from train.config import ModelConfig
from train.networks.head import Head
from train.networks.mobilenet import Block, MobileNet
from train.networks.network import Network, build

torch.set_num_threads(1)  # OpenMP's threads spin: with other work on the cores, two take ten times as long as one

COLOURS = {"ash": (200, 60, 60), "birch": (60, 200, 60), "Cedar": (60, 60, 200)}


def random_network(variant="mobileone_s0", *, num_classes=3, num_conv_branches=0, seed=0, **head):
    """A network in evaluation mode whose BatchNorms are far from the identity: fresh ones would hide errors."""
    torch.manual_seed(seed)
    return disturbed(build(ModelConfig(variant, num_conv_branches, **head), num_classes))


def small_lite(*, num_classes=3, **head):
    """The same in the form of EfficientNet-Lite, for what need not take its time: 48 features of 32 px or more."""
    torch.manual_seed(0)
    return disturbed(Network(small_body(), Head(48, num_classes, **head)))


def small_body():
    """The body of `small_lite`; commands train it where a test has it for `train.networks.network.MobileNetV3Small`."""
    relu6 = nn.functional.relu6
    blocks = (Block(3, 8, 8, 1, relu6), Block(5, 32, 16, 2, relu6), Block(3, 64, 16, 1, relu6))
    return MobileNet(blocks, stem_channels=8, num_features=48, activation=relu6, pads_like_tensorflow=True)


def disturbed(model):
    """A network with the statistics of some images, disturbed: arbitrary ones would make 43 layers forget the input."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.3, 1.2)
            norm.weight[::7] *= -1
            if norm.bias.requires_grad:
                norm.bias.normal_(0, 0.3)
            norm.momentum = 1.0
        model.train()(nn.functional.interpolate(torch.rand(8, 3, 8, 8), size=64))
        for norm in norms:
            norm.running_var.clamp_(min=0.2 * norm.running_var.mean())  # a dead channel would be amplified without end
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= torch.empty(norm.num_features).uniform_(0.7, 1.4)
            norm.momentum = 0.1
    return model.eval()


def relative_error(actual, expected):
    """Largest difference over the largest magnitude."""
    return float((actual - expected).abs().max() / expected.abs().max())


def labelled_images(num_images, side=32, *, seed=0):
    """(N, S, S, 3) uint8 noise around one colour per class, and (N,) labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % len(COLOURS)
    colours = np.array(list(COLOURS.values()))[labels][:, None, None]
    noise = rng.normal(0, 40, (num_images, side, side, 3))
    return (colours + noise).clip(0, 255).astype(np.uint8), labels


def dataset(root, num_images=24, *, side=32, clusters=True):
    """A folder with a manifest: classes ash, birch, Cedar in turn, groups g1 and g2, two images per cluster."""
    images, labels = labelled_images(num_images, side)
    names = list(COLOURS)
    rows = []
    for i, (pixels, label) in enumerate(zip(images, labels)):
        path = f"g{i // 3 % 2 + 1}/{names[label]}/img{i}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)
        rows.append([path, names[label], path[:2], f"patient{i // 6}-{label}"])
    if clusters:
        with open(root / "manifest.csv", "w", newline="") as file:
            csv.writer(file).writerows([["path", "class", "group", "cluster"], *rows])
    return root
