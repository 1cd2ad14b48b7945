"""Pictures that are the same picture: by their bytes, by their pixels, and by how they look.

A look is a perceptual hash of 64 bits (the signs of the slowest waves of a 32 x 32 thumbnail about their median)
in the eight positions a square can be turned or mirrored to. Lesions are dark blobs in the middle, so that different
ones come to like hashes: a pair counts as near only where the slopes of both thumbnails agree as well.
Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions" (pHash).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

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

    files: list[str]
    """(N,) SHA-256 of the file."""
    pixels: list[str]
    """(N,) SHA-256 of the preprocessed pixels."""
    hashes: np.ndarray
    """(N, 8) uint64 in the eight positions; the first is the picture as it is."""
    thumbnails: np.ndarray
    """(N, 32, 32) float32 luminance."""
    is_flat: np.ndarray
    """(N,) bool: too little texture to be told apart by looks; compared by its file alone."""

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Pair:
    """Two pictures that are one."""

    first: int
    second: int
    kind: str
    """"file", "pixels" or "near"."""
    distance: int
    """Of the 64 bits; 0 for exact ones."""


def fingerprint(root: Path, paths: Sequence[str], images: np.ndarray) -> Fingerprints:
    """Fingerprints of decoded pictures.

    Args:
      root: Folder of the files.
      paths: (N,) relative to it.
      images: (N, S, S, 3) uint8 RGB, the same pictures as `Preprocess` gives them.
    """
    files = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths]
    pixels = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    hashes = np.zeros((len(images), 8), np.uint64)
    thumbnails = np.zeros((len(images), _SIDE, _SIDE), np.float32)
    is_flat = np.zeros(len(images), bool)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        thumbnails[part] = np.stack([_thumbnail(image) for image in images[part]])
        is_flat[part] = thumbnails[part].std(axis=(1, 2)) < MIN_TEXTURE
        hashes[part] = _hash(_positions(thumbnails[part]))
    return Fingerprints(files, pixels, hashes, thumbnails, is_flat)


def find_pairs(
    a: Fingerprints, b: Fingerprints | None = None, *, is_wanted: Callable[[int, np.ndarray], np.ndarray] | None = None
) -> tuple[list[Pair], int]:
    """Finds the duplicates among A's pictures, or between A's and B's.

    Args:
      a: N pictures.
      b: M pictures; None: `a` itself, each pair once.
      is_wanted: (i, (K,) indices of b) -> (K,) bool, which pairs matter, such as those of two parts. None: all.

    Returns:
      The pairs, and the number of further ones whose hashes agree but whose slopes do not.
    """
    other = a if b is None else b
    found: dict[tuple[int, int], Pair] = {}
    for kind in ("file", "pixels"):
        where: dict[str, list[int]] = defaultdict(list)
        for j, key in enumerate(getattr(other, "files" if kind == "file" else "pixels")):
            if kind == "file" or not other.is_flat[j]:
                where[key].append(j)
        for i, key in enumerate(getattr(a, "files" if kind == "file" else "pixels")):
            matches = np.array([j for j in where.get(key, ()) if b is not None or j > i], int)
            if len(matches) and is_wanted is not None:
                matches = matches[is_wanted(i, matches)]
            for j in matches.tolist():
                found.setdefault((i, j), Pair(i, j, kind, 0))
    textured = np.flatnonzero(~other.is_flat)
    hashes = other.hashes[textured]  # (M, 8)
    num_alike = 0
    for i in np.flatnonzero(~a.is_flat).tolist():
        begin = 0 if b is not None else int(np.searchsorted(textured, i, side="right"))
        distances = np.bitwise_count(hashes[begin:] ^ a.hashes[i, 0])  # (M, 8) uint8
        close, position = np.nonzero(distances <= MAX_HAMMING)
        if not len(close):
            continue
        matches = textured[begin + close]
        if is_wanted is not None:
            kept = is_wanted(i, matches)
            close, position, matches = close[kept], position[kept], matches[kept]
            if not len(matches):
                continue
        turned = _positions(other.thumbnails[matches])[np.arange(len(matches)), position]  # (K, 32, 32)
        agreement = _slopes(turned) @ _slopes(a.thumbnails[i : i + 1])[0]
        alike = set()
        for j, near, correlation in zip(matches.tolist(), distances[close, position].tolist(), agreement.tolist()):
            if correlation >= MIN_CORRELATION:
                if (i, j) not in found or (found[i, j].kind == "near" and near < found[i, j].distance):
                    found[i, j] = Pair(i, j, "near", near)
            else:
                alike.add(j)
        num_alike += sum((i, j) not in found for j in alike)
    return sorted(found.values(), key=lambda pair: (pair.first, pair.second)), num_alike


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
    across = np.diff(thumbnails, axis=2).reshape(len(thumbnails), -1)
    down = np.diff(thumbnails, axis=1).reshape(len(thumbnails), -1)
    slopes = np.concatenate([across, down], axis=1)
    norm: np.ndarray = np.linalg.norm(slopes, axis=1, keepdims=True)
    return np.asarray(slopes / np.maximum(norm, 1e-6))
