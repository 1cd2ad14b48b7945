"""A model and this checkout -> one folder, or zip, with everything that a contest asks for.

It is built beside its place and appears there when it is complete. Equal inputs give equal bytes: no time, host or path
goes into it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from edge import __version__, device
from edge.classifier import Classifier
from edge.errors import InputError, ModelError
from edge.exit import DONE
from edge.output_files import naming
from edge.predictions import meta_path
from train.commit import source_commit

from . import accuracy, manifest, samples, sources, weights
from .archive import write_zip
from .card import write_card
from .check import Verdict, look
from .metadata import required_names
from .rules import Contest

_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|&!~]")
_NOTE = "Each wheel in wheels/ holds the text of its own licence.\n"


@dataclass(frozen=True)
class Order:
    """What is to be packed."""

    model: Path
    checkpoint: Path | None
    """A run folder, a checkpoint.pt or a safetensors file; None: none, but for the bundled model."""
    output: Path
    """A folder, or a file that ends in .zip."""
    team: str
    machines: Sequence[str]
    """Of `sources.MACHINES`, whose wheels are packed."""
    contest: Contest
    force: bool = False
    """Whether a submission that is there may be replaced."""

    @property
    def is_zip(self) -> bool:
        """Whether the output is a file."""
        return self.output.suffix.lower() == ".zip"


def pack(order: Order, tell: Callable[[str], None]) -> list[Verdict]:
    """Writes a submission.

    Args:
      order: What to pack.
      tell: Takes a line for each step that takes long.

    Returns:
      What the rules say of it that need no run.

    Raises:
      ModelError: the model cannot be used, or answers other classes than the contest's; or the checkpoint cannot be
        read, or is of another model.
      EdgeError: no checkout, or no package index where one is needed.
      InputError: the model's card or licence file is no UTF-8 text.
      OSError: the output exists, or cannot be written.
    """
    _check_output(order)
    sources.check_checkout()
    classifier = Classifier.load(order.model)
    samples.check_classes(classifier, order.contest.settings["classes"])
    content = weights.of_run(order.checkpoint, classifier, sources.CHECKOUT)
    with naming(order.output), _folder_beside(order.output) as scratch:
        folder = Path(scratch) / "submission"
        _write_model(folder / "model", classifier, content)
        tell("building the wheel of this checkout")
        _write_code(folder, order, tell)
        tell("recording predictions of the sample images")
        expected = _write_samples(folder, order.contest)
        _write_texts(folder, order, classifier, expected)
        _write_manifest(folder, order, classifier)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
        verdicts = list(look(folder, order.contest))
        if order.is_zip:
            write_zip(folder, Path(scratch) / "submission.zip")
            folder = Path(scratch) / "submission.zip"
        elif order.output.exists():
            order.output.rename(Path(scratch) / "before")
        os.replace(folder, order.output)
    return verdicts


def _folder_beside(output: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}.")
    except OSError as error:  # which names a folder that nobody asked for
        raise OSError(error.errno, error.strerror, str(output)) from error


def _check_output(order: Order) -> None:
    """Says before the work that the output cannot be, or would replace something else than a submission."""
    out = order.output
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(out.absolute().parent))
    if not os.path.lexists(out):
        return
    if order.is_zip:
        if not out.is_file() or out.is_symlink():
            raise FileExistsError(errno.EEXIST, "is no regular file", str(out))
    elif not out.is_dir() or out.is_symlink():
        raise FileExistsError(errno.EEXIST, "is no folder, expected a folder or FILE.zip", str(out))
    elif out.is_mount() or out.samefile("."):
        raise FileExistsError(errno.EEXIST, "is a mount or the working folder, expected another one", str(out))
    elif next(out.iterdir(), None) is not None and not (out / manifest.NAME).is_file():
        raise FileExistsError(errno.EEXIST, "holds something else than a submission", str(out))
    if not order.force:
        raise FileExistsError(errno.EEXIST, "exists already (--force replaces it)", str(out))


def _write_model(folder: Path, classifier: Classifier, content: bytes | None) -> None:
    folder.mkdir(parents=True)
    shutil.copyfile(classifier.path, folder / "model.onnx")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
    if content is None:
        return
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    header = weights.read_header(path)
    for difference in weights.differences(header, classifier):
        raise ModelError(f"the checkpoint {difference}")
    recipe = json.dumps({"classes": header.classes, "preprocess": asdict(header.preprocess), **header.config}, indent=1)
    (folder / "recipe.json").write_text(recipe + "\n", encoding="utf-8")
    (folder / "load_weights.py").write_text(weights.LOAD, encoding="utf-8")


def _write_code(folder: Path, order: Order, tell: Callable[[str], None]) -> None:
    (folder / "code").mkdir()
    sources.build_wheel(folder / "code")
    sources.copy_source(folder / "code/source")
    sources.write_requirements(folder)
    settings = order.contest.settings
    replaced = {"@images@": str(settings["latency"]["images"]), "@runs@": str(settings["latency"]["runs"])}
    replaced |= {"@profile@": settings["profile"], "@reference@": settings["reference_group"]}
    for name in ("run_accuracy.sh", "run_latency.sh"):
        (folder / name).write_text(_filled(name, replaced), encoding="utf-8")
    (folder / "code/environment.sh").write_text(_filled("environment.sh", {}), encoding="utf-8")
    for machine in order.machines:
        tell(f"fetching the wheels for {machine}")
        (folder / "wheels").mkdir(exist_ok=True)
        sources.download_wheels(folder / "wheels", folder / f"requirements-{machine}.txt", machine)


def _write_samples(folder: Path, contest: Contest) -> list[str]:
    """Draws the sample images, runs them through the model as packed, and returns the lines that give the score."""
    images = folder / "samples/images"
    settings = contest.settings
    samples.write_images(images, settings["sample_groups"], settings["classes"])
    talk = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()), redirect_stderr(talk):
        output = Path(scratch)
        status = accuracy.run(
            images, folder / "model/model.onnx", output,
            profile=settings["profile"], reference=settings["reference_group"], tell=lambda line: None,
        )
        if status != DONE:
            raise ModelError(f"the sample images cannot be scored: {talk.getvalue().strip().splitlines()[-1:]}")
        predictions = folder / "samples" / accuracy.PREDICTIONS
        shutil.copyfile(output / accuracy.PREDICTIONS, predictions)
        shutil.copyfile(meta_path(output / accuracy.PREDICTIONS), meta_path(predictions))
        return list(accuracy.summary(output / accuracy.RESULTS))


def _write_texts(folder: Path, order: Order, classifier: Classifier, expected: list[str]) -> None:
    settings = order.contest.settings
    (wheel,) = (folder / "code").glob("*.whl")
    pythons = " and ".join(sources.WHEEL_PYTHONS)
    wheels = f"Python {pythons} on {' and '.join(order.machines)}" if order.machines else "none are packed"
    values = {
        "title": order.contest.title,
        "team": _MARKDOWN.sub(r"\\\g<0>", order.team),
        "pythons": f"{sources.PYTHONS[0]} to {sources.PYTHONS[-1]}",
        "expected": "".join(f"    {line}\n" for line in expected).rstrip("\n"),
        "reference": settings["reference_group"],
        "images": str(settings["latency"]["images"]),
        "runs": str(settings["latency"]["runs"]),
        "wheel": wheel.name,
        "wheels": wheels,
    }
    text = _filled("README.md", {f"@{name}@": value for name, value in values.items()})
    (folder / "README.md").write_text(text, encoding="utf-8")
    card = classifier.path.with_name(classifier.path.stem.removesuffix(".int8") + ".md")
    text = _read(card) if card.is_file() else write_card(classifier)
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    licences = folder / "LICENSES"
    licences.mkdir()
    shutil.copyfile(sources.CHECKOUT / "LICENSE", licences / "code.txt")
    beside = classifier.path.with_name("LICENSE-MODELS")
    stated = f"The weights in model/: {classifier.metadata.get('license', 'no licence is stated')}\n"
    text = _read(beside) if beside.is_file() else stated
    (licences / "model.txt").write_text(text, encoding="utf-8")
    packages = sources.licences_of(sources.closure(required_names(sources.declared(""), extras=False)))
    lines = [f"{name}: {licence}\n" for name, licence in packages.items()]
    (licences / "packages.txt").write_text("".join(lines) + _NOTE * bool(order.machines), encoding="utf-8")


def _write_manifest(folder: Path, order: Order, classifier: Classifier) -> None:
    facts = {
        "contest": order.contest.name,
        "team": order.team,
        "fairedge": __version__,
        "commit": source_commit(sources.CHECKOUT),
        "model_sha256": classifier.sha256,
        "recorded_with": device.versions(),
        "wheels": {"machines": [*order.machines], "pythons": [*sources.WHEEL_PYTHONS]} if order.machines else None,
    }
    manifest.write(folder, facts)


def _read(path: Path) -> str:
    """A text of the team's that is packed as it is."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: got no UTF-8 text at byte {error.start}, expected UTF-8") from error


def _filled(name: str, values: dict[str, str]) -> str:
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    return re.sub("|".join(map(re.escape, values)) or "$^", lambda match: values[match[0]], text)
