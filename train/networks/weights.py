"""Pre-trained weights of others, or of an earlier run, into a network: names mapped, input matched, nothing guessed.

Read are MobileOne by Apple's and by timm's names, MobileNetV2 and V3-Small by torchvision's, EfficientNet-Lite by
those of efficientnet-lite-pytorch (`networks/pretrained.py` finds the file), and our own. Files come as .safetensors,
or as what `torch.load` reads with `weights_only`: no file of weights runs code here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from edge.errors import ModelError
from edge.photo.preprocess import Preprocess

from .. import checkpoint
from .efficientnet_lite import EfficientNetLite
from .mobilenet import MobileNetV2
from .mobileone import ConvBN, MobileOne
from .network import Network
from .pretrained import describe

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of R, G and B, in units of full range: what most published weights were trained with."""
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The same of EfficientNet-Lite's. Source: TensorFlow's repository tpu, models/official/efficientnet/lite."""

_IMAGENET_CLASSES = 1000
_MOBILEONE_NAMES = (  # parts of a name: ours, Apple's, timm's
    ("body.stem", "stage0", "stem"),
    ("body.stages.0", "stage1", "stages.0"),
    ("body.stages.1", "stage2", "stages.1"),
    ("body.stages.2", "stage3", "stages.2"),
    ("body.stages.3", "stage4", "stages.3"),
    ("conv_branches", "rbr_conv", "conv_kxk"),
    ("scale", "rbr_scale", "conv_scale"),
    ("identity", "rbr_skip", "identity"),
    ("se.reduce", "se.reduce", "attn.fc1"),
    ("se.expand", "se.expand", "attn.fc2"),
    ("head.fc", "linear", "head.fc"),
)
_PREFIXES = re.compile(r"^((module|_orig_mod|model|state_dict)\.)+")
_WRAPPERS = ("state_dict", "model")
_CLASSIFIERS = ("head.", "linear.", "classifier.")
_BRANCH = re.compile(r"\.(conv_branches|rbr_conv|conv_kxk)\.[1-9]")
_INFERENCE_FORM = re.compile(r"(^|\.)(reparam_conv|fused)\.")


@dataclass(frozen=True)
class Report:
    """What became of a file of weights. Of the body every tensor was loaded, or there would be no report."""

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
    """Of the published ImageNet weights that these are, or that the run they come from began with; None: of none."""
    marks: frozenset[str] | None
    """Marks of what they were trained on, as a teacher's: a checkpoint's, none of ImageNet; None where unknown."""

    @property
    def line(self) -> str:
        """The report in words."""
        head = "the head begins anew" if self.missing else "with the head"
        skipped = f" ({len(self.skipped_head)} tensors of the file's classifier left out)" if self.skipped_head else ""
        return f"{self.loaded} tensors loaded by {self.naming} names, {head}{skipped}"


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
      classes: The network's, in the order of its logits. Compared where the file tells its own.
      mean: Of R, G and B, subtracted from pixels in 0 to 1 before the file's network saw them. None: the publisher's;
        with our names and no `std` either, the checkpoint's own scale alone, else `scale`.
      std: What they were divided by then. None: as with `mean`.

    Raises:
      ModelError: no such file, none of plain tensors, in inference form, or of another network.
    """
    path = path / checkpoint.NAME if path.is_dir() else path
    tensors, origin = _read(path)
    tensors = {_PREFIXES.sub("", name): tensor for name, tensor in tensors.items()}
    naming, ours = _to_ours(network, tensors, path)
    state = network.state_dict()
    head = {name: tensor for name, tensor in ours.items() if name.startswith(_CLASSIFIERS)}
    own_head = [name for name in state if name.startswith("head.")]
    if _shapes(head) != _shapes({name: state[name] for name in own_head}) or (
        origin is not None and origin.classes != list(classes)
    ):
        skipped, missing = sorted(head), own_head
    else:
        skipped, missing = [], []
    body = {name: tensor for name, tensor in ours.items() if name not in head}
    _check(body, {name: tensor for name, tensor in state.items() if name not in own_head}, path)

    fed = torch.tensor(scale, dtype=torch.float64).expand(3)
    if mean is not None or std is not None or naming != "ours":
        own_mean, own_std = (_LITE_MEAN, _LITE_STD) if naming == "lite" else (IMAGENET_MEAN, IMAGENET_STD)
        divisor = torch.tensor(std or own_std, dtype=torch.float64)
        gain, offset = 1 / (255 * fed * divisor), torch.tensor(mean or own_mean, dtype=torch.float64) / divisor
    else:
        expected = fed if origin is None else torch.tensor(Preprocess.from_json(origin.preprocess).scale).double()
        gain, offset = expected / fed, torch.zeros(3, dtype=torch.float64)
    _match_input(network, body, gain, offset)
    loaded = body if missing else body | head
    network.load_state_dict(loaded, strict=False)  # strictly checked above, but for counters that some files lack
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    marks = None
    if origin is not None and not origin.leaky:  # a leaky run has seen more than its clusters
        marks = frozenset(origin.clusters + origin.pictures)
    elif naming != "ours" and any(len(tensor) == _IMAGENET_CLASSES for tensor in head.values()):
        marks = frozenset()
    imagenet = sha256 if describe(sha256) else None if origin is None else origin.sources.get(checkpoint.IMAGENET)
    return Report(naming, len(loaded), missing, skipped, sha256, imagenet, marks)


def names_of(network: Network, naming: str) -> dict[str, str]:
    """The one table, for one network: our name of every tensor -> by "apple", "timm", "torchvision", "lite", "ours".

    Both ways: no two tensors share a name.

    Raises:
      KeyError: nobody has published such a network by these names.
    """
    pairs = _name_parts(network.body)[naming]
    names = {}
    for own in network.state_dict():
        name = f".{own}."
        for ours, theirs in pairs:
            name = name.replace(f".{ours}.", f".{theirs}.")
        names[own] = name[1:-1]
    return names


def _name_parts(body: nn.Module) -> dict[str, list[tuple[str, str]]]:
    """Naming -> pairs of parts of names, ours and theirs."""
    if isinstance(body, MobileOne):
        return {
            "ours": [],
            "apple": [(ours, apple) for ours, apple, _ in _MOBILEONE_NAMES],
            "timm": [(ours, timm) for ours, _, timm in _MOBILEONE_NAMES],
        }
    if isinstance(body, EfficientNetLite):
        return {"ours": [], "lite": _lite_parts(body)}
    return {"ours": [], "torchvision": _torchvision_parts(body)}


def _lite_parts(body: EfficientNetLite) -> list[tuple[str, str]]:
    """efficientnet-lite-pytorch names the layers of a bottleneck, and numbers its BatchNorms, by what they do."""
    pairs = [("head.fc", "_fc")]
    for ours, conv, bn in (("body.stem", "_conv_stem", "_bn0"), ("body.last", "_conv_head", "_bn1")):
        pairs += [(f"{ours}.conv", conv), (f"{ours}.bn", bn)]
    kinds = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
    for i, block in enumerate(body.blocks):
        layers = list(block.get_submodule("layers").children())
        for k, (conv, bn) in enumerate(kinds[-len(layers) :]):  # the first bottleneck expands nothing
            ours = f"body.blocks.{i}.layers.{k}"
            pairs += [(f"{ours}.conv", f"_blocks.{i}.{conv}"), (f"{ours}.bn", f"_blocks.{i}.{bn}")]
    return pairs


def _torchvision_parts(body: nn.Module) -> list[tuple[str, str]]:
    """torchvision counts the layers of a block as ours do, but V2's last convolution and its BatchNorm one by one."""
    is_v2 = isinstance(body, MobileNetV2)
    blocks = list(body.get_submodule("blocks").children())
    pairs = [("head.fc", "classifier.1")] if is_v2 else []  # V3's two layers have no counterpart
    for ours, index in (("body.stem", 0), ("body.last", len(blocks) + 1)):
        pairs += [(f"{ours}.conv", f"features.{index}.0"), (f"{ours}.bn", f"features.{index}.1")]
    for i, block in enumerate(blocks):
        last = len(list(block.get_submodule("layers").children())) - 1
        for k in range(last + 1):
            ours, theirs = f"body.blocks.{i}.layers.{k}", f"features.{i + 1}.{'conv' if is_v2 else 'block'}"
            if is_v2 and k == last:
                pairs += [(f"{ours}.conv", f"{theirs}.{k}"), (f"{ours}.bn", f"{theirs}.{k + 1}")]
                continue
            pairs += [(f"{ours}.conv", f"{theirs}.{k}.0"), (f"{ours}.bn", f"{theirs}.{k}.1")]
            pairs += [(f"{ours}.reduce", f"{theirs}.{k}.fc1"), (f"{ours}.expand", f"{theirs}.{k}.fc2")]
    return pairs


def _read(path: Path) -> tuple[dict[str, torch.Tensor], checkpoint.Checkpoint | None]:
    """The tensors of a file by its own names, and the checkpoint that it is."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path), None
        values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file of weights") from error
    except Exception as error:  # both readers raise most built-in types on foreign files
        raise ModelError(
            f"{path}: no readable weights ({type(error).__name__}), expected .safetensors or a state dict of tensors "
            "alone, never a saved module"
        ) from error
    if isinstance(values, dict) and "schema" in values:
        state = checkpoint.load(path)
        return state.weights, state
    while isinstance(values, dict) and (inner := next((key for key in _WRAPPERS if key in values), None)):
        values = values[inner]
    if not isinstance(values, dict) or not values:
        raise ModelError(f"{path}: got {type(values).__name__}, expected a state dict of tensors")
    return {str(name): x for name, x in values.items() if isinstance(x, torch.Tensor)}, None


def _to_ours(
    network: Network, tensors: Mapping[str, torch.Tensor], path: Path
) -> tuple[str, dict[str, torch.Tensor]]:
    """Whose names the file has, which is who knows the most of them; and the tensors by ours, where there is one."""
    if any(_INFERENCE_FORM.search(name) for name in tensors):
        raise ModelError(
            f"{path}: weights in inference form (branches already fused), which cannot be trained; expected the "
            "training form, e.g. mobileone_s0_unfused.pth.tar"
        )
    tables = {
        naming: {theirs: own for own, theirs in names_of(network, naming).items()}
        for naming in _name_parts(network.body)
    }
    naming = max(tables, key=lambda naming: len(tables[naming].keys() & tensors.keys()))
    table = tables[naming]
    return naming, {table.get(name, name): tensor for name, tensor in tensors.items()}


def _check(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path) -> None:
    """Whether the file has the network's body, no more and no less."""
    ours, theirs = _shapes(expected), _shapes(got)
    missing = [name for name in ours if name not in theirs]
    unexpected = [name for name in theirs if name not in ours]
    misshapen = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if not missing and not unexpected and not misshapen:
        return
    first = (misshapen + missing + unexpected)[0]
    hint = ""
    if not misshapen and any(_BRANCH.search(name) for name in missing + unexpected):
        hint = "; the file has another number of parallel convolutions per block (num_conv_branches)"
    raise ModelError(
        f"{path}: weights of another network: {len(missing)} tensors missing, {len(unexpected)} unexpected, "
        f"{len(misshapen)} of another shape, first {first}: got {theirs.get(first, 'none')}, "
        f"expected {ours.get(first, 'none')}{hint}"
    )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape; BatchNorm's counter is left out, as many files do."""
    return {name: tuple(x.shape) for name, x in tensors.items() if not name.endswith(".num_batches_tracked")}


def _match_input(
    network: Network, body: dict[str, torch.Tensor], gain: torch.Tensor, offset: torch.Tensor
) -> None:
    """Makes weights that expect x * gain - offset compute the same from x, in `body`.

    The convolutions are linear, so the gain goes into their weights; what the offset adds to their outputs is a
    constant per channel, so it goes into the BatchNorms' means. Differs: not at the border, where zero padding was
    the mean colour and now is black.

    Args:
      network: Whose stem it is.
      body: Tensors of its body by our names; those of the stem are replaced.
      gain: (3,) float64.
      offset: (3,) float64.
    """
    for name, module in network.body.get_submodule("stem").named_modules(prefix="body.stem"):
        if isinstance(module, ConvBN):
            weight = body[f"{name}.conv.weight"].double()  # (D, 3, k, k)
            shift = (weight * offset.view(3, 1, 1)).sum(dim=(1, 2, 3))
            body[f"{name}.conv.weight"] = weight * gain.view(3, 1, 1)
            body[f"{name}.bn.running_mean"] = body[f"{name}.bn.running_mean"].double() + shift
