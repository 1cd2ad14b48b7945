"""Pictures that are the same picture: by their bytes, by their pixels, and by how they look.

A look is a perceptual hash of 64 bits (the signs of the slowest waves of a 32 x 32 thumbnail about their median)
in the eight positions a square can be turned or mirrored to. Lesions are dark blobs in the middle, so that different
ones come to like hashes: a pair counts as near only where the slopes of both thumbnails agree as well.
Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions" (pHash).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from edge.photo.preprocess import Preprocess

LOOK = Preprocess(size_px=128, resize="stretch")
"""How pictures are compared: no letterbox bars, so that the border is the picture's own."""
MAX_HAMMING = 6
"""Largest number of the 64 bits in which near duplicates differ."""
MIN_CORRELATION = 0.9
"""Least correlation of their thumbnails' slopes; a picture saved again as a JPEG keeps more than 0.98."""
MIN_TEXTURE = 3.0
"""Least standard deviation of a thumbnail, of 255. Below it a hash is noise, and all blank pictures look alike."""
_SIDE = 32
_BATCH = 256


@dataclass(frozen=True)
class Fingerprints:
    """What N pictures are compared by."""

    paths: list[str]
    files: list[str]  # SHA-256 of each
    pixels: list[str]  # SHA-256 of each picture's preprocessed pixels; "" where it is flat
    hashes: np.ndarray  # (N, 8) uint64 in the eight positions; the first is the picture as it is
    thumbnails: np.ndarray  # (N, 32, 32) float32 luminance
    is_flat: np.ndarray  # (N,) bool: too little texture to compare looks; only the file is compared


class Pair(NamedTuple):
    """Two pictures, by their places in the two sets, and what they share."""

    first: int
    second: int
    kind: str  # "file", "pixels", "near", or "alike": the hashes agree and the slopes do not


def fingerprint(root: Path, paths: Sequence[str], images: np.ndarray) -> Fingerprints:
    """Fingerprints of files in `root` and of the same pictures by `LOOK`, (N, 128, 128, 3) uint8 RGB."""
    files = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths]
    thumbnails = np.zeros((len(images), _SIDE, _SIDE), np.float32)
    hashes = np.zeros((len(images), 8), np.uint64)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        thumbnails[part] = [_thumbnail(image) for image in images[part]]
        hashes[part] = _hash(_positions(thumbnails[part]))
    is_flat = thumbnails.std(axis=(1, 2)) < MIN_TEXTURE
    pixels = [
        "" if flat else hashlib.sha256(image.tobytes()).hexdigest() for image, flat in zip(images, is_flat, strict=True)
    ]
    return Fingerprints(list(paths), files, pixels, hashes, thumbnails, is_flat)


def find_pairs(a: Fingerprints, b: Fingerprints | None = None) -> list[Pair]:
    """The duplicates between A's pictures and B's, or among A's, each pair once, in the order of the pictures."""
    other = a if b is None else b
    kinds: dict[tuple[int, int], str] = {}
    for kind, own, others in (("file", a.files, other.files), ("pixels", a.pixels, other.pixels)):
        where: dict[str, list[int]] = defaultdict(list)
        for j, key in enumerate(others):
            where[key].append(j)
        for i, key in enumerate(own):
            for j in where[key] if key else ():
                if b is not None or j > i:
                    kinds.setdefault((i, j), kind)
    textured = np.flatnonzero(~other.is_flat)
    hashes = other.hashes[textured]  # (M, 8)
    for i in np.flatnonzero(~a.is_flat).tolist():
        begin = 0 if b is not None else int(np.searchsorted(textured, i, side="right"))
        close, position = np.nonzero(np.bitwise_count(hashes[begin:] ^ a.hashes[i, 0]) <= MAX_HAMMING)
        if not len(close):
            continue
        matches = textured[begin + close]
        turned = _positions(other.thumbnails[matches])[np.arange(len(matches)), position]  # (K, 32, 32)
        agreement = _slopes(turned) @ _slopes(a.thumbnails[i : i + 1])[0]
        for j in matches[agreement >= MIN_CORRELATION].tolist():
            kinds.setdefault((i, j), "near")
        for j in matches.tolist():
            kinds.setdefault((i, j), "alike")
    return [Pair(i, j, kind) for (i, j), kind in sorted(kinds.items())]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> (32, 32) float32 luminance, without letterbox bars, which pictures of one shape share."""
    bright = image.max(axis=2) > 0
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if len(rows):
        image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = Image.fromarray(np.ascontiguousarray(image)).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _positions(thumbnails: np.ndarray) -> np.ndarray:
    """(B, S, S) -> (B, 8, S, S): as it is, mirrored, both upside down, and the four transposed."""
    upright = [thumbnails, thumbnails[:, :, ::-1], thumbnails[:, ::-1], thumbnails[:, ::-1, ::-1]]
    return np.stack([*upright, *(image.transpose(0, 2, 1) for image in upright)], axis=1)


def _hash(positions: np.ndarray) -> np.ndarray:
    """(B, 8, 32, 32) -> (B, 8) uint64."""
    k, x = np.arange(8)[:, None], np.arange(_SIDE)
    waves = np.cos(np.pi * k * (2 * x + 1) / (2 * _SIDE)).astype(np.float32)  # DCT-II, its eight slowest waves
    spectrum = (waves @ positions @ waves.T).reshape(*positions.shape[:2], 64)
    bits = spectrum > np.median(spectrum[..., 1:], axis=-1, keepdims=True)  # the mean brightness is no look
    return np.packbits(bits, axis=-1).view(np.uint64)[..., 0]


def _slopes(thumbnails: np.ndarray) -> np.ndarray:
    """(B, 32, 32) -> (B, D) float32 of unit length: an even light and a slow shade weigh nothing."""
    differences = [np.diff(thumbnails, axis=axis).reshape(len(thumbnails), -1) for axis in (2, 1)]
    slopes = np.concatenate(differences, axis=1)
    norm: np.ndarray = np.linalg.norm(slopes, axis=1, keepdims=True)
    return np.asarray(slopes / np.maximum(norm, 1e-6))
