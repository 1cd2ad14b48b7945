"""Throughput of the input pipeline against what a tutorial would write, and what share of a step it takes.

The peer is a plain PyTorch DataLoader: Pillow decodes, letterboxes, mirrors, turns and warps each picture anew in every
epoch, in this process or in worker processes. Both give the same batches of float tensors with the same kinds and
amounts of change, its warp being one affine call, which is the least it can do.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from bench.dataset import Sample
from bench.speed import process_cost
from bench.speed.latency import quartiles
from edge.device import usable_cores
from edge.errors import EdgeError
from edge.photo.preprocess import Preprocess
from train.config import AugmentConfig, TrainConfig
from train.data.feeder import Batch, feed, scale_tensor
from train.data.images import load_images, training_preprocess
from train.data.sampler import Batches
from train.loop.optimizer import build_optimizer
from train.networks.network import build

_NUM_CLASSES = 6
_NUM_IMAGES, _ROUNDS = 512, 5  # of a round; after one round that does not count
_PEER_WORKERS = (0, 2)  # processes of the DataLoader, 0 is this one; the fastest counts


class PlainDataset(Dataset[torch.Tensor]):
    """The peer: each picture from its file, with Pillow."""

    def __init__(self, paths: Sequence[str], config: AugmentConfig, size_px: int) -> None:
        self.paths, self.config, self.size_px = paths, config, size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        """(3, S, S) float32, 0 to 1."""
        config, side = self.config, self.size_px
        with Image.open(self.paths[i]) as file:
            image = file.convert("RGB")
        factor = side / max(image.size)
        image = image.resize([max(1, round(x * factor)) for x in image.size], Image.Resampling.BILINEAR)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        chance = torch.rand(3).tolist()
        if chance[0] < config.p_hflip:
            square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if chance[1] < config.p_vflip:
            square = square.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        turn = int(torch.randint(4, ()).item())
        if config.quarter_turns and turn:
            square = square.transpose(Image.Transpose(Image.Transpose.ROTATE_90 + turn - 1))
        if chance[2] < config.p_affine:
            square = self._warped(square)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255

    def _warped(self, square: Image.Image) -> Image.Image:
        config, centre = self.config, self.size_px / 2
        angle, zoom, x, y = (2 * torch.rand(4) - 1).tolist()
        angle, zoom = math.radians(config.rotate_deg) * angle, (1 + config.zoom) ** zoom
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        x, y = centre + config.shift * self.size_px * x, centre + config.shift * self.size_px * y
        matrix = (cos, -sin, centre - cos * x + sin * y, sin, cos, centre - sin * x - cos * y)
        return square.transform(square.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def measure(root: Path, samples: Sequence[Sample], config: TrainConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Times our input and the peer's in turn (A B C A B C), and our input beside the network.

    Args:
      root: Folder of the data set.
      samples: Its images; the first usable ones are taken.
      config: Its last input side, its augmentation, its batch size and its network.
      quiet: Whether no progress is shown.

    Returns:
      JSON-ready: images per second of each contender and the ratio to the best peer of the same round (median and
      quartiles), seconds of decoding once, and in `step` the seconds of a training step by itself, the time of the
      input by itself as a share of it, and the share of the time that the two together spend waiting for input.

    Raises:
      DatasetError: no image is usable.
    """
    side, batch_size = config.input.sizes_px[-1], config.optim.batch_size
    preprocess = Preprocess(size_px=side, resize=config.input.resize)
    begin = perf_counter()
    larger = training_preprocess(preprocess, margin=config.input.cache_margin)
    images = load_images(root, samples[:_NUM_IMAGES], larger, quiet=quiet)
    decode_s = perf_counter() - begin
    n, names = len(images.samples), [sample.path for sample in images.samples]
    batch_size = min(batch_size, n)

    def ours(num_steps: int) -> Iterator[torch.Tensor]:
        batches = _batches(n, batch_size, num_steps)
        for batch in _fed(images.pixels, batches, config.augment, preprocess, names):
            yield batch.images

    dataset = PlainDataset([str(root / name) for name in names], config.augment, side)
    loaders = {
        f"DataLoader, {workers} workers": DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in _PEER_WORKERS
    }
    contenders: dict[str, Callable[[], Iterable[torch.Tensor]]] = {"ours": lambda: ours(n // batch_size)}
    contenders |= {name: loader.__iter__ for name, loader in loaders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(_ROUNDS + 1):
        for name, batches in contenders.items():
            begin = perf_counter()
            count = sum(len(batch) for batch in batches())
            if turn:  # the first starts the workers and fills the file cache
                rates[name].append(count / (perf_counter() - begin))
    best = max(loaders, key=lambda name: median(rates[name]))
    return {
        "images": n,
        "size_px": side,
        "batch_size": batch_size,
        "cores": usable_cores(),
        "decode_s": decode_s,
        "images_per_s": {name: quartiles(values) for name, values in rates.items()},
        "best_peer": best,
        "ratio": quartiles([a / b for a, b in zip(rates["ours"], rates[best], strict=True)]),
        "step": _beside(_network_step(config), ours, batch_size / median(rates["ours"])),
    }


def _network_step(config: TrainConfig) -> Callable[[torch.Tensor], None]:
    """A step of training on (B, 3, S, S) float32 images: what the input has to hide behind."""
    torch.manual_seed(0)
    model = build(config.model, _NUM_CLASSES).train()
    optimizer = build_optimizer(model, config.optim)

    def step(images: torch.Tensor) -> None:
        loss = functional.cross_entropy(model(images), torch.arange(len(images)) % _NUM_CLASSES)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def measure_memory() -> dict[str, float]:
    """Resident memory of a process that has fed 12,000 pictures of 160 px once, in MB (10^6 bytes).

    Returns:
      total, of which in_file belongs to mapped files (the decoded pictures, and libraries) and is given up when memory
      is short; pixels, the size of the decoded pictures.

    Raises:
      EdgeError: the process failed.
    """
    cost = process_cost.run([sys.executable, "-c", "from research.throughput import print_resident; print_resident()"])
    if cost.status:
        raise EdgeError(f"the memory benchmark failed: {cost.error}")
    return {name: float(value) for name, value in json.loads(cost.output).items()}


def print_resident() -> None:
    """What the process of `measure_memory` does."""
    num_images, preprocess = 12_000, Preprocess(size_px=160)
    side = training_preprocess(preprocess, margin=0.125).size_px
    shape = (num_images, side, side, 3)
    with TemporaryFile() as file:
        file.truncate(math.prod(shape))  # no block of it is on the disk, but every page read is in memory
        pixels = np.asarray(np.memmap(file, np.uint8, mode="r", shape=shape))
        batches = _batches(num_images, 64, -(-num_images // 64))
        for _ in _fed(pixels, batches, AugmentConfig(), preprocess, [""] * num_images):
            pass
        memory = psutil.Process().memory_info()
    found = {"total": memory.rss / 1e6, "in_file": memory.shared / 1e6, "pixels": pixels.nbytes / 1e6}
    sys.stdout.write(json.dumps(found))


def table(figures: dict[str, Any], memory: dict[str, float]) -> Iterator[str]:
    """What `measure` and `measure_memory` found, for a person."""
    yield (
        f"{figures['images']} images at {figures['size_px']} px in batches of {figures['batch_size']}, "
        f"{figures['cores']} cores; decoding them once took {figures['decode_s']:.1f} s"
    )
    for name, rate in figures["images_per_s"].items():
        yield f"{name:24} {rate['median']:8.0f} images/s ({rate['low']:.0f} to {rate['high']:.0f})"
    ratio, step = figures["ratio"], figures["step"]
    yield f"ours / {figures['best_peer']}: {ratio['median']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})"
    seconds, share = step["step_s"]["median"], step["input_share"]
    yield f"a step of the network takes {seconds:.3f} s, its input alone {share:.1%} of that"
    yield f"the network waits for input {step['waiting_share']['median']:.1%} of the time"
    yield (
        f"feeding 12,000 images at 160 px: {memory['total']:.0f} MB resident, of which {memory['in_file']:.0f} MB "
        "are mapped files"
    )


def _fed(
    pixels: np.ndarray, batches: Batches, config: AugmentConfig, preprocess: Preprocess, names: Sequence[str]
) -> Iterator[Batch]:
    scale, size_px = scale_tensor(preprocess), preprocess.size_px
    return feed(pixels, batches, config, size_px=size_px, scale=scale, seed=0, first_step=0, names=names)


def _batches(n: int, batch_size: int, num_steps: int) -> Batches:
    """Through n pictures in order, again and again."""
    indices = np.arange(num_steps * batch_size).reshape(num_steps, batch_size) % n
    return Batches(indices, np.zeros_like(indices, bool))


def _beside(
    step: Callable[[torch.Tensor], None], batches: Callable[[int], Iterator[torch.Tensor]], input_s: float
) -> dict[str, Any]:
    """The network by itself, and with its input."""
    batch = next(batches(1))
    step(batch)
    alone, waiting = [], []
    for _ in range(_ROUNDS):
        begin = perf_counter()
        step(batch)
        alone.append(perf_counter() - begin)
    end = perf_counter()
    for fresh in batches(_ROUNDS + 1):
        begin = perf_counter()
        step(fresh)
        waiting.append((begin - end) / (perf_counter() - end))
        end = perf_counter()
    # The first batch has nothing to hide behind: once a run, not once a step.
    return {
        "step_s": quartiles(alone),
        "input_share": input_s / median(alone),
        "waiting_share": quartiles(waiting[1:]),
    }
