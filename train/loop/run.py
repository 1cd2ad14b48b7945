"""One training run: from a data set and a configuration to a folder with checkpoint, log and held-out figures."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.dataset import DatasetError, Sample, classes_of, index
from bench.provenance import cluster_marks, picture_marks, source_commit
from bench.results.text import interval_text
from edge.output_files import only_writer, write_output
from edge.photo.preprocess import Preprocess

from .. import checkpoint as checkpoints
from ..after.held_out import embed, encode_predictions, fit_temperature_of, measure, to_predictions
from ..checkpoint import IMAGENET, NAME, Checkpoint, CheckpointError
from ..config import TrainConfig
from ..data.feeder import View, scale_tensor
from ..data.folds import read_folds
from ..data.images import ImageSet, load_images, training_preprocess
from ..data.profile import profile_of
from ..leakage.checks import LEAKY, find_leaks, mark_leaky
from ..networks.network import Network, build
from ..networks.teacher import Teacher, load_teacher, soft_labels
from ..networks.weights import Report, imagenet_weights, load_weights
from .distributed import Ranks
from .epoch_log import CSV, JSONL
from .loop import TrainingData, TrainingError, check_config, fit
from .machine import bound_threads, describe

CONFIG = "config.json"
METRICS = "metrics.json"
PREDICTIONS = "heldout_predictions.csv"
_NUM_NAMED = 10


@dataclass(frozen=True)
class Plan:
    """Order for a run: its configuration, and the flags of edge-train fit by their names."""

    data: Path
    out: Path
    config: TrainConfig
    recipe: str
    label: str = "class"
    group: str = "group"
    folds: Path | None = None
    hold_out: int | None = None
    search: int | None = None
    weights: Path | None = None
    teacher: Sequence[Path] = ()
    cache: Path | None = None
    allow_leak: bool = False
    checkpoint_minutes: int = 5
    resume: bool = False
    force: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Parts:
    """A data set divided."""

    classes: list[str]
    groups: list[str]
    seen: list[Sample]
    search: list[Sample]
    held_out: list[Sample]
    folds_sha256: str | None


@dataclass(frozen=True)
class Outcome:
    """Result of a run."""

    metrics: dict[str, Any] | None
    """The held-out figures; None where nothing is held out, or on another rank."""
    num_unusable: int
    """Images that could not be used, of those to train on and those held out."""


def run(plan: Plan, ranks: Ranks, *, say: Callable[[str], None]) -> Outcome:
    """Trains, then measures once on the held-out part.

    Args:
      plan: What to do.
      ranks: This process among those that train together; only the first writes and talks.
      say: Takes each remark; of a quiet plan only the warnings.

    Raises:
      DatasetError: the data cannot be used.
      LeakError: training and held-out part overlap, or the teacher has seen the held-out part.
      CheckpointError: a run of other settings.
      TrainingError: the loss is no longer finite.
      FileExistsError: a run is there, and the plan neither resumes nor forces; or another process is writing it.
    """
    with only_writer(plan.out) if ranks.is_first else nullcontext():
        return _run(plan, ranks, say=say)


def _run(plan: Plan, ranks: Ranks, *, say: Callable[[str], None]) -> Outcome:
    exists = (plan.out / NAME).exists()
    if exists and not plan.resume and not plan.force:
        hint = "--resume continues that run, --force starts over"
        raise FileExistsError(errno.EEXIST, f"exists already ({hint})", str(plan.out / NAME))
    warn = say if ranks.is_first else _silence
    remark = _silence if plan.quiet else warn
    quiet = plan.quiet or not ranks.is_first
    bound_threads(plan.out / CONFIG if plan.resume and exists else None, say=remark)
    config, parts = plan.config, _divide(plan)
    preprocess = config.input.preprocess
    load = partial(load_images, plan.data, cache=plan.cache, quiet=quiet)
    seen = load(parts.seen, training_preprocess(preprocess, margin=config.input.cache_margin))
    # Before the training, or an unusable image here would be found when it is over.
    held_out = load(parts.held_out, preprocess) if parts.held_out else None
    unusable = {**seen.unusable, **(held_out.unusable if held_out is not None else {})}
    for path, reason in islice(unusable.items(), _NUM_NAMED):
        warn(f"skipped {path}: {reason}")
    if unusable:
        warn(f"skipped {len(unusable)} images that cannot be used")
    labels = np.array([parts.classes.index(sample.label) for sample in seen.samples])
    groups = np.array([parts.groups.index(sample.group) for sample in seen.samples])
    check_config(config, classes=parts.classes, labels=labels, groups=groups, num_ranks=ranks.size)
    teacher = load_teacher(plan.teacher, classes=parts.classes).to(ranks.device) if plan.teacher else None
    network, origin = _network(plan, preprocess, parts.classes, remark)
    sources: dict[str, Teacher | Report | None] = {"teacher": teacher, "weights": origin}
    apart = [*(held_out.samples if held_out is not None else []), *parts.search]
    leaks = find_leaks(plan, seen.samples, apart, sources, load)
    state = _blank(plan, parts, seen.samples, preprocess, network, sources)
    if plan.resume and exists:
        blank, state = state, checkpoints.load(plan.out)
        _check_same_run(state, blank)
    elif ranks.is_first:
        _begin(plan, parts, bool(leaks), ranks)
    if leaks:
        warn(f"LEAKY: {'; '.join(leaks)}; figures of this run mean little")
        state = mark_leaky(state, leaks, plan.out)
    num_held_out = 0 if held_out is None else len(held_out.samples)
    remark(f"{len(seen.samples)} images to train on, {num_held_out} held out, classes {', '.join(parts.classes)}")
    if held_out is None:
        remark("no --hold-out: every image is trained on, so nothing here says how good the network is on others")
    names, load_seen = [sample.path for sample in seen.samples], partial(load, seen.samples)
    lessons = _lessons(plan, teacher, seen, load_seen, quiet=quiet)
    data = TrainingData(_with_margins(config, preprocess, seen, load_seen), labels, groups, names, **lessons)
    checkpoint_s = 60.0 * plan.checkpoint_minutes
    for row in fit(state, data, out=plan.out, ranks=ranks, checkpoint_s=checkpoint_s, quiet=quiet, say=remark):
        rate = f"{row.seconds:.0f} s, {row.images_per_second:.0f} images/s, {row.input_share:.0%} waiting for them"
        remark(f"epoch {row.epoch}/{config.optim.epochs} {row.size_px} px loss {row.loss:.4f} {rate}")
    if held_out is None or not ranks.is_first:
        return Outcome(None, len(unusable))
    metrics = write_metrics(plan.out, held_out.samples, held_out.pixels)
    for name in ("accuracy", "balanced_accuracy"):
        metric = metrics[name]
        remark(f"held-out {name}: {metric['value']:.3f} [{interval_text(metric)}] n={metric['n']}")
    return Outcome(metrics, len(unusable))


def write_metrics(out: Path, held_out: Sequence[Sample], images: np.ndarray) -> dict[str, Any]:
    """Predicts the held-out images with the run's result, writes what came out, and returns the figures."""
    model, preprocess, _, state = checkpoints.load_model(out)
    features = embed(model, images, scale=scale_tensor(preprocess))
    with torch.no_grad():
        probabilities = np.asarray(torch.softmax(model.head(features), dim=1).numpy())
    if not np.isfinite(probabilities).all():
        raise TrainingError(f"{out}: answers that are no numbers on the held-out images; try a lower --lr")
    predictions = to_predictions(held_out, probabilities, state.classes)
    mark = {"leaky": True} if state.leaky else {}
    metrics = {**mark, "hold_out": state.hold_out, **measure(held_out, predictions, state.classes)}
    metrics["calibration"] = fit_temperature_of(model, features, held_out, state.classes)
    write_output(out / PREDICTIONS, encode_predictions(predictions, state.classes))
    write_json(out / METRICS, metrics)
    checkpoints.save(replace(state, metrics=metrics), out / NAME)
    return metrics


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a file of indented JSON that is whole or absent."""
    write_output(path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def _silence(_: str) -> None:
    pass


def _divide(plan: Plan) -> Parts:
    """Reads the data set and divides it by the folds."""
    samples = index(plan.data, label_column=plan.label, group_column=plan.group)
    classes, groups = list(classes_of(samples)), sorted({sample.group for sample in samples})
    if len(classes) < 2:
        raise DatasetError(f"got images of {samples[0].label} alone, expected at least two classes")
    if plan.folds is None:
        return Parts(classes, groups, samples, [], [], None)
    fold_of, folds_sha256 = read_folds(plan.folds, samples)
    apart = [fold for fold in (plan.hold_out, plan.search) if fold is not None]
    if unknown := [fold for fold in apart if fold not in fold_of.values()]:
        expected = ", ".join(map(str, sorted({*fold_of.values()})))
        raise DatasetError(f"{plan.folds}: no fold {unknown[0]}, expected one of {expected}")
    parts: dict[str, list[Sample]] = {"seen": [], "search": [], "held_out": []}
    for sample in samples:
        fold = fold_of[sample.path]
        parts["held_out" if fold == plan.hold_out else "search" if fold == plan.search else "seen"].append(sample)
    if unseen := sorted({*classes} - {sample.label for sample in parts["seen"]}):
        kept_back = " and ".join(map(str, apart))
        raise DatasetError(f"{plan.folds}: all of {', '.join(unseen)} is in fold {kept_back}, expected some")
    return Parts(classes, groups, **parts, folds_sha256=folds_sha256)


def _network(
    plan: Plan, preprocess: Preprocess, classes: list[str], remark: Callable[[str], None]
) -> tuple[Network, Report | None]:
    """The network that the run begins with: random weights by its seed, or those of a file or of a package."""
    torch.manual_seed(plan.config.optim.seed)
    network = build(plan.config.model, len(classes))
    if plan.weights is None:
        return network, None
    path = imagenet_weights(plan.config.model.network) if plan.weights == Path(IMAGENET) else plan.weights
    report = load_weights(network, path, scale=preprocess.scale, classes=classes)
    remark(f"{path}: {report.line}")
    return network, report


def _blank(
    plan: Plan,
    parts: Parts,
    seen: Sequence[Sample],
    preprocess: Preprocess,
    network: Network,
    sources: Mapping[str, Teacher | Report | None],
) -> Checkpoint:
    """The checkpoint the run begins with. It knows of what its sources know: a student passes it on."""
    used = {name: source for name, source in sources.items() if source is not None}
    known = {mark for source in used.values() for mark in source.marks or ()}
    labelled = "\n".join(f"{sample.path}\t{sample.label}\t{sample.group}" for sample in seen)
    digests = {"labels": hashlib.sha256(labelled.encode(errors="surrogateescape")).hexdigest()}
    digests |= {name: source.sha256 for name, source in used.items()}
    weights = used.get("weights")
    if isinstance(weights, Report):
        digests |= weights.origins
    return checkpoints.start(
        plan.config,
        classes=parts.classes,
        network=network,
        recipe=plan.recipe,
        preprocess=preprocess.to_json(),
        data_name=plan.data.resolve().name,
        clusters=sorted({*cluster_marks(seen), *known}),
        pictures=picture_marks(plan.data, seen),
        profile=profile_of(plan.data, seen, preprocess, plan.config.augment).to_json(),
        sources=digests,
        folds_sha256=parts.folds_sha256,
        hold_out=plan.hold_out,
        commit=source_commit(Path(__file__).parents[1]),
    )


def _begin(plan: Plan, parts: Parts, is_leaky: bool, ranks: Ranks) -> None:
    """Makes the run's folder, with what is known before the first step."""
    plan.out.mkdir(parents=True, exist_ok=True)
    for name in (NAME, CSV, JSONL, METRICS, PREDICTIONS, LEAKY):
        (plan.out / name).unlink(missing_ok=True)
    mark = {"leaky": True} if is_leaky else {}
    machine = {"machine": describe(ranks.device), "threads": torch.get_num_threads(), "pytorch": str(torch.__version__)}
    write_json(plan.out / CONFIG, {"recipe": plan.recipe, **mark, **machine, **plan.config.to_dict()})
    for name, samples in (("heldout.txt", parts.held_out), ("search.txt", parts.search)):
        if samples or name == "heldout.txt":
            write_output(plan.out / name, "".join(f"{sample.path}\n" for sample in samples))


def _with_margins(
    config: TrainConfig, preprocess: Preprocess, seen: ImageSet, load: Callable[[Preprocess], ImageSet]
) -> dict[int, np.ndarray]:
    """Input side -> pixels to render it from; those of the last side are `seen`'s."""
    images = {config.input.sizes_px[-1]: seen.pixels}
    for side in sorted({*config.input.sizes_px} - {*images}):
        larger = load(training_preprocess(replace(preprocess, size_px=side), margin=config.input.cache_margin))
        for path, reason in larger.unusable.items():
            raise DatasetError(f"{path}: could be read a moment ago, now: {reason}")
        images[side] = larger.pixels
    return images


def _lessons(
    plan: Plan, teacher: Teacher | None, seen: ImageSet, load: Callable[[Preprocess], ImageSet], *, quiet: bool
) -> dict[str, Any]:
    """The fields of `TrainingData` that are the teacher's."""
    if teacher is None:
        return {}
    if plan.config.distill.distill_view == "fixed":
        key = hashlib.sha256(seen.pixels.data).hexdigest()
        soft = soft_labels(teacher, lambda preprocess: load(preprocess).pixels, key=key, cache=plan.cache, quiet=quiet)
        return {"soft_labels": soft}
    margin = plan.config.input.cache_margin
    pixels = [load(training_preprocess(preprocess, margin=margin)).pixels for preprocess in teacher.preprocesses]
    sides = [preprocess.size_px for preprocess in teacher.preprocesses]
    return {"teacher": teacher, "views": [View(*each) for each in zip(pixels, sides, strict=True)]}


def _check_same_run(state: Checkpoint, blank: Checkpoint) -> None:
    for name in ("config", "classes", "preprocess", "clusters", "pictures", "sources", "folds_sha256", "hold_out"):
        was: Any = getattr(state, name)
        now: Any = getattr(blank, name)
        if name == "config":
            flat = [TrainConfig.from_dict(values).flat() for values in (was, now)]
            was, now = ({key: values[key] for key in flat[0] if flat[0][key] != flat[1][key]} for values in flat)
        if was == now:
            continue
        if name in ("clusters", "pictures"):
            was, now = f"{len(was)} of them", f"{len(now)} others"
        raise CheckpointError(f"the run was started with {name} {was}, got {now}; --force starts over")
