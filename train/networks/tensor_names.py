"""What others call the tensors of a network: MobileOne's by Apple and timm, MobileNets' by torchvision, and so on."""

from __future__ import annotations

from torch import nn

from .efficientnet_lite import EfficientNetLite
from .mobilenet import MobileNet, MobileNetV2
from .network import Network

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
_LITE_LAYERS = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def names_of(network: Network, naming: str) -> dict[str, str]:
    """Our name of every tensor -> its name by "apple", "timm", "torchvision", "lite" or "ours"; no two share one.

    Raises:
      KeyError: nobody has published such a network by these names.
    """
    pairs = name_parts(network.body)[naming]
    names = {own: f".{own}." for own in network.state_dict()}
    for ours, theirs in pairs:
        names = {own: name.replace(f".{ours}.", f".{theirs}.") for own, name in names.items()}
    return {own: name[1:-1] for own, name in names.items()}


def name_parts(body: nn.Module) -> dict[str, list[tuple[str, str]]]:
    """Naming -> `_mobilenet_parts`, or the like."""
    if isinstance(body, MobileNet):
        return {"ours": [], "lite" if isinstance(body, EfficientNetLite) else "torchvision": _mobilenet_parts(body)}
    ours, apple, timm = zip(*_MOBILEONE_NAMES, strict=True)
    return {"ours": [], "apple": list(zip(ours, apple)), "timm": list(zip(ours, timm))}


def _mobilenet_parts(body: MobileNet) -> list[tuple[str, str]]:
    """Pairs of parts of names, ours and theirs.

    efficientnet-lite-pytorch names layers and numbers BatchNorms by what they do; torchvision counts the layers as
    ours do, except that V2's last convolution and its BatchNorm count one by one.
    """
    is_lite, is_v2 = isinstance(body, EfficientNetLite), isinstance(body, MobileNetV2)
    if is_lite:
        pairs, outer = [("head.fc", "_fc")], [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")]
    else:
        pairs = [("head.fc", "classifier.1")] if is_v2 else []  # V3's two layers have no counterpart
        outer = [(f"features.{index}.0", f"features.{index}.1") for index in (0, len(body.blocks) + 1)]
    convolutions = dict(zip(("body.stem", "body.last"), outer, strict=True))
    for i, block in enumerate(body.blocks):
        num_layers = len(list(block.get_submodule("layers").children()))
        for k in range(num_layers):
            ours, theirs = f"body.blocks.{i}.layers.{k}", f"features.{i + 1}.{'conv' if is_v2 else 'block'}"
            if is_lite:
                conv, bn = _LITE_LAYERS[k - num_layers]  # the first bottleneck expands nothing
                convolutions[ours] = (f"_blocks.{i}.{conv}", f"_blocks.{i}.{bn}")
            elif is_v2 and k == num_layers - 1:
                convolutions[ours] = (f"{theirs}.{k}", f"{theirs}.{k + 1}")
            else:
                convolutions[ours] = (f"{theirs}.{k}.0", f"{theirs}.{k}.1")
                pairs += [(f"{ours}.reduce", f"{theirs}.{k}.fc1"), (f"{ours}.expand", f"{theirs}.{k}.fc2")]
    for ours, (conv, bn) in convolutions.items():
        pairs += [(f"{ours}.conv", conv), (f"{ours}.bn", bn)]
    return pairs
