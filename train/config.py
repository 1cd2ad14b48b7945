"""Settings of a training run.

A recipe (`recipes.py`) is a value of `TrainConfig`. A field of its sections is also a flag (`lr` is `--lr`), or one of
`--set` (`--set zoom=0.3`), with the text below as its help. What was used is written into the run folder and the
checkpoint. Paths are no fields: they do not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from edge.photo.preprocess import Preprocess

T = TypeVar("T")
_Rule = tuple[Callable[[Any], bool], str]

NETWORKS = (
    *(f"mobileone_s{i}" for i in range(5)),
    "mobilenet_v2",
    "mobilenet_v3_small",
    *(f"efficientnet_lite{i}" for i in range(3)),
)

_RETIRED: dict[str, dict[str, Any]] = {
    "loss": {"focal_gamma": 0.0, "logit_adjustment": 0.0},
    "optim": {"clip": 0.0, "swa_start": 1.0},
}
"""Fields of earlier versions, and the value that changed nothing: model files and runs that have it are still read."""


def _flag(
    default: T, text: str, rule: _Rule | None = None, *, choices: Sequence[str] = (), is_flag: bool = True
) -> T:
    """A field with its meaning, typed as its default, as `dataclasses.field` is."""
    rule = _one_of(*choices) if choices else rule
    value: T = field(default=default, metadata={"help": text, "rule": rule, "choices": choices, "is_flag": is_flag})
    return value


def _setting(default: T, text: str, rule: _Rule | None = None, *, choices: Sequence[str] = ()) -> T:
    """A field that recipes vary and people seldom do: it has no flag of its own, only `--set NAME=VALUE`."""
    return _flag(default, text, rule, choices=choices, is_flag=False)


def _at_least(low: float) -> _Rule:
    return (lambda x: x >= low), f"{low} or more"


def _within(low: float, high: float) -> _Rule:
    return (lambda x: low <= x <= high), f"{low} to {high}"


def _one_of(*names: str) -> _Rule:
    return (lambda x: x in names), " or ".join((", ".join(names[:-1]), names[-1]))


def _is_number_by_class(item: str) -> bool:
    name, _, number = item.rpartition(":")
    try:
        return bool(name) and 0 < float(number) < float("inf")
    except ValueError:
        return False


_POSITIVE: _Rule = (lambda x: x > 0), "above 0"
_BELOW_ONE: _Rule = (lambda x: 0 <= x < 1), "0 to below 1"
_SIDES: _Rule = (lambda x: bool(x) and all(32 <= side <= 4096 for side in x)), "sides from 32 to 4096"
_SHARES_OF_RGB: _Rule = (lambda x: len(x) == 3 and all(0 <= v <= 1 for v in x)), "three numbers from 0 to 1"
_NUMBERS_BY_CLASS: _Rule = (lambda x: all(map(_is_number_by_class, x))), "CLASS:NUMBER,... with numbers above 0"


class _Section:
    """Fields that are checked against their rules."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]  # every child is a dataclass
            rule, value = entry.metadata["rule"], getattr(self, entry.name)
            if rule is not None and not rule[0](value):
                raise ValueError(f"{entry.name}: got {value!r}, expected {rule[1]}")


@dataclass(frozen=True)
class ModelConfig(_Section):
    """The network and what follows its pooling."""

    network: str = _flag("mobileone_s0", "the architecture", choices=NETWORKS)
    num_conv_branches: int = _flag(0, "MobileOne: parallel convolutions per block; 0: the variant's own", _at_least(0))
    neck: bool = _flag(False, "BNNeck: BatchNorm without bias between the pooling and the classifier")
    head: str = _flag("linear", "last layer; cosine: weights and features of length 1", choices=("linear", "cosine"))
    head_scale: float = _setting(16.0, "cosine head: factor on the cosines", _POSITIVE)
    dropout: float = _setting(0.0, "share of the features dropped before the classifier", _BELOW_ONE)
    distill_head: bool = _flag(False, "a second classifier, taught by the teacher alone; in use both are added")


@dataclass(frozen=True)
class InputConfig(_Section):
    """From picture to network."""

    sizes_px: tuple[int, ...] = _flag(
        (128,), "input sides for equal shares of the epochs; the last is the model's", _SIDES
    )
    resize: str = _flag("letterbox", "how a picture becomes square", choices=("letterbox", "stretch", "crop"))
    cache_margin: float = _setting(
        0.125, "pictures are kept larger by this share, so that the warp has detail to spare", _within(0, 1)
    )

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that the model file will ask of the runtime.

        A JPEG is decoded to no more than the input needs. Twice that, which `Preprocess` asks for by itself, takes a
        Pi a third to a half longer on photos of 2 to 5 megapixels, and a network that learned from blurred pictures
        gains nothing.
        """
        from edge.photo.preprocess import Preprocess  # numpy, which --help does without

        return Preprocess(size_px=self.sizes_px[-1], resize=self.resize, draft_factor=1)


@dataclass(frozen=True)
class AugmentConfig(_Section):
    """What one picture is varied by; p_ are probabilities."""

    p_hflip: float = _setting(0.5, "left and right exchanged", _within(0, 1))
    p_vflip: float = _setting(0.5, "top and bottom exchanged", _within(0, 1))
    quarter_turns: bool = _flag(True, "turned by a random multiple of 90 degrees: a lesion has no up")
    p_affine: float = _setting(1.0, "shift, zoom and rotation together", _within(0, 1))
    rotate_deg: float = _setting(30.0, "largest rotation in degrees", _within(0, 180))
    shift: float = _setting(0.08, "largest shift, as a share of the side", _within(0, 0.5))
    zoom: float = _setting(0.2, "largest zoom: 0.2 draws factors from 1/1.2 to 1.2", _within(0, 1))
    aspect: float = _setting(0.0, "largest change of width over height, drawn as the zoom is", _within(0, 1))
    p_perspective: float = _setting(0.0, "each corner pulled in by a random share of the side", _within(0, 1))
    perspective: float = _setting(0.1, "standard deviation of that share, as in albumentations", _within(0, 0.4))
    border: str = _setting("reflect", "what lies outside a picture", choices=("reflect", "black"))
    p_bars: float = _flag(
        0.0, "bars left and right, or above and below: black, white or of the picture's edge", _within(0, 1)
    )
    bars: float = _setting(0.8, "largest width of bars: 0.8 shrinks the picture to 1/1.8 of the side", _within(0, 1))
    p_cutout: float = _setting(0.0, "black squares", _within(0, 1))
    cutout_holes: int = _setting(1, "cutout: number of squares", _at_least(1))
    cutout_size: float = _setting(0.15, "cutout: their side, as a share of the picture's", _within(0, 1))
    p_jitter: float = _setting(0.0, "brightness, contrast, saturation and hue", _within(0, 1))
    jitter: float = _setting(0.1, "jitter: largest change of each, as a share", _within(0, 0.5))
    p_light: float = _setting(0.0, "exposure, white balance and saturation together", _within(0, 1))
    exposure_ev: float = _setting(0.7, "largest change of the exposure in stops", _within(0, 3))
    white_balance: float = _setting(0.5, "largest gain of red, and loss of blue, as a share", _within(0, 2))
    saturation: float = _setting(0.3, "largest change of the saturation, as a share", _within(0, 1))
    p_blur: float = _setting(0.0, "Gaussian blur", _within(0, 1))
    blur: float = _setting(0.012, "blur: largest standard deviation, as a share of the side", _within(0, 0.1))
    p_coarse: float = _setting(0.0, "made smaller and enlarged again, as a picture of few pixels", _within(0, 1))
    coarse: float = _setting(1.0, "few pixels: how much at most; 1 halves the side", _within(0, 3))
    p_jpeg: float = _setting(0.0, "JPEG's artefacts", _within(0, 1))
    jpeg_quality: int = _setting(40, "JPEG: lowest quality, drawn up to 95", _within(1, 95))
    p_noise: float = _setting(0.0, "Gaussian noise on each value", _within(0, 1))
    # Li et al.: 0.03 on the tensor normalised by their std (.3394, .2834, .2840), here in shares of full range.
    noise_std: tuple[float, ...] = _setting(
        (0.0102, 0.0085, 0.0085), "noise: standard deviation for R, G and B, as a share of full range", _SHARES_OF_RGB
    )


@dataclass(frozen=True)
class SampleConfig(_Section):
    """Which pictures make an epoch."""

    sampler: str = _flag(
        "shuffle",
        "how pictures are drawn: shuffle, by class; pk, classes x images; balance, targets per class and group",
        choices=("shuffle", "pk", "balance"),
    )
    power: float = _flag(1.0, "shuffle: a class is drawn as its count to this power: 1 as is, 0 alike", _within(0, 1))
    pk_images: int = _setting(6, "pk: images of each class in a batch, which is this times the classes", _at_least(2))
    targets: tuple[str, ...] = _flag(
        (), "balance: CLASS:COUNT,... images of each class in every group", _NUMBERS_BY_CLASS
    )
    max_repeats: int = _setting(20, "balance: how often one image may come at most", _at_least(1))
    steps_per_epoch: int = _flag(0, "steps that count as an epoch; 0: as many as the drawn images fill", _at_least(0))


@dataclass(frozen=True)
class LossConfig(_Section):
    """What is minimised, apart from the teacher's part."""

    margin_type: str = _flag("none", "cosine head: margin of the loss", choices=("none", "arcface", "curricular"))
    margin: float = _setting(0.2, "cosine head: margin in radians", _within(0, 1.5))
    margin_warmup: float = _setting(0.1, "cosine head: share of the steps in which the margin grows", _BELOW_ONE)
    label_smoothing: float = _flag(0.0, "share of each target spread over all classes", _BELOW_ONE)
    class_weights: tuple[str, ...] = _flag((), "CLASS:WEIGHT,... for every class", _NUMBERS_BY_CLASS)
    group_weights: bool = _flag(False, "BiaslessNAS: images weighted by the largest group's share over their group's")
    triplet_weight: float = _flag(0.0, "batch-hard triplet loss on the features before the neck", _at_least(0))
    triplet_margin: float = _setting(0.6, "triplet loss: margin", _at_least(0))
    turn_weight: float = _setting(0.0, "divergence of the answers to a picture and its turned twin", _at_least(0))


@dataclass(frozen=True)
class DistillConfig(_Section):
    """What is learned from a teacher (--teacher)."""

    distill: str = _flag("none", "loss of the teacher's part; kl is Hinton's", choices=("none", "kl"))
    temperature: float = _setting(4.0, "T of the softened distributions", _POSITIVE)
    distill_weight: float = _setting(0.7, "weight of the teacher's part (alpha), beside T squared", _at_least(0))
    hard_weight: float = _setting(0.3, "weight of the labels' part beside the teacher's", _at_least(0))
    distill_view: str = _flag(
        "fixed",
        "what the teacher sees: fixed, each image once, averaged over flips; same, the student's geometry",
        choices=("fixed", "same"),
    )


@dataclass(frozen=True)
class OptimConfig(_Section):
    """How it is minimised."""

    epochs: int = _flag(30, "passes over the drawn images", _at_least(1))
    batch_size: int = _flag(64, "images per step, all processes together", _at_least(2))
    optimizer: str = _flag("adamw", "how the weights are changed", choices=("adamw", "sgd"))
    lr: float = _flag(2e-3, "peak learning rate, for this batch size", _POSITIVE)
    body_lr: float = _flag(1.0, "the body's learning rate, as a share of the head's", _within(0, 1))
    momentum: float = _setting(0.9, "sgd's; onecycle moves it between 0.85 and 0.95 instead", _BELOW_ONE)
    weight_decay: float = _flag(0.05, "on convolution and linear weights only", _at_least(0))
    schedule: str = _flag("cosine", "of the learning rate", choices=("cosine", "onecycle", "constant"))
    warmup: float = _flag(0.05, "share of the steps over which the rate rises", _BELOW_ONE)
    amp: str = _flag("none", "mixed precision of the body; fp16 needs CUDA", choices=("none", "fp16"))
    channels_last: bool = _setting(False, "memory format after the stem: faster for depthwise convolutions")
    ema_decay: float = _flag(
        0.995, "of the averaged weights, which are the result; about 1 - 1/(3 * steps per epoch)", _BELOW_ONE
    )
    ema_ramp: float = _setting(20.0, "EMA: steps to reach the decay, as 1 - exp(-step / this)", _at_least(0))
    bn_batches: int = _flag(0, "batches to measure the result's BatchNorm statistics on; 0: kept", _at_least(0))
    seed: int = _flag(0, "of initialisation, drawing and augmentation", _within(0, 2**31 - 1))


@dataclass(frozen=True)
class TrainConfig:
    """All that changes the result of a run, apart from the data, the starting weights and the teacher."""

    model: ModelConfig = ModelConfig()
    input: InputConfig = InputConfig()
    augment: AugmentConfig = AugmentConfig()
    sample: SampleConfig = SampleConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    optim: OptimConfig = OptimConfig()

    def __post_init__(self) -> None:
        rules = (
            ("margin_type", self.loss.margin_type == "none" or self.model.head == "cosine", "none with a linear head"),
            ("distill_head", not self.model.distill_head or self.distill.distill != "none", "false without --distill"),
            ("targets", bool(self.sample.targets) == (self.sample.sampler == "balance"), "some for balance alone"),
        )
        for name, is_valid, expected in rules:
            if not is_valid:
                raise ValueError(f"{name}: got {self.flat()[name]!r}, expected {expected}")

    def size_px(self, epoch: int) -> int:
        """The input side of an epoch, from 0."""
        return self.input.sizes_px[epoch * len(self.input.sizes_px) // self.optim.epochs]

    def flat(self) -> dict[str, Any]:
        """Every field of every section by its name."""
        return {name: value for section in asdict(self).values() for name, value in section.items()}

    def changed(self, **values: Any) -> TrainConfig:
        """A copy with some fields, named without their section, set anew.

        Raises:
          ValueError: a value is out of range.
        """
        sections = {}
        for section in fields(self):
            part = getattr(self, section.name)
            own = {entry.name: values.pop(entry.name) for entry in fields(part) if entry.name in values}
            sections[section.name] = replace(part, **own)
        if values:
            raise ValueError(f"{min(values)}: no such field")
        return TrainConfig(**sections)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the inverse of `from_dict`."""
        return {
            section: {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
            for section, values in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
        """Reads what `to_dict` gave.

        Raises:
          ValueError: a field is missing, unknown or out of range.
        """
        sections = vars(cls())
        if not isinstance(values, Mapping) or sorted(values) != sorted(sections):
            raise ValueError(f"config: got {', '.join(sorted(map(str, values)))}, expected {', '.join(sections)}")
        parts: dict[str, Any] = {}
        for name, default in sections.items():
            given = {key: tuple(v) if isinstance(v, list) else v for key, v in values[name].items()}
            for key, unused in _RETIRED.get(name, {}).items():
                if (value := given.pop(key, unused)) != unused:
                    text = f"got {key} {value!r}, expected {unused!r}: others are of an earlier version"
                    raise ValueError(f"config {name}: {text}")
            if sorted(given) != sorted(vars(default)):
                text = f"got {', '.join(sorted(given))}, expected {', '.join(vars(default))}"
                raise ValueError(f"config {name}: {text}")
            parts[name] = type(default)(**given)
        return cls(**parts)
