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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.photos.images import encode
from bench.photos.scene import draw
from bench.provenance import source_commit
from bench.remarks import one_answer
from edge import __version__, device
from edge.classifier import Classifier
from edge.errors import InputError, ModelError
from edge.exit import DONE
from edge.output_files import naming, refuse_folder, refuse_input
from edge.predictions import read

from . import accuracy, sources, weights
from .archive import MANIFEST, write_manifest, write_zip
from .check import Verdict, look
from .rules import CONTEST, Submission

_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|&!~]")
_SAMPLE_SIZE = (160, 120)
_SAMPLES_OF_CLASS = 2


def pack(
    output: Path,
    *,
    model: Path,
    checkpoint: Path | None,
    team: str,
    machines: Sequence[str],
    force: bool,
    tell: Callable[[str], None],
) -> list[Verdict]:
    """Writes a submission.

    Args:
      output: A folder, or a file that ends in .zip.
      model: Model file.
      checkpoint: As for `weights.of_run`.
      team: Its name, for the README.
      machines: Of `sources.MACHINES`, whose wheels are packed.
      force: Whether a submission that is there may be replaced.
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
    is_zip = output.suffix.lower() == ".zip"
    _check_output(output, is_zip=is_zip, force=force)
    sources.check_checkout()
    classifier = Classifier.load(model)
    if [*classifier.classes] != CONTEST.classes:
        got, expected = ", ".join(classifier.classes), ", ".join(CONTEST.classes)
        raise ModelError(f"{classifier.path}: answers {got}; the contest's classes are {expected}")
    content = weights.of_run(checkpoint, classifier)
    texts = _card_and_licences(classifier, machines)
    with naming(output), _folder_beside(output) as scratch:
        folder = Path(scratch) / "submission"
        _write_model(folder / "model", classifier, content)
        tell("building the wheel of this checkout")
        _write_code(folder, machines, tell)
        tell("recording predictions of the sample images")
        _write_templates(folder, team, machines, _write_samples(folder))
        rows = read(folder / "samples" / accuracy.PREDICTIONS).rows
        if line := one_answer((row.label for row in rows), of="sample picture"):
            tell(line)
        (folder / "LICENSES").mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        facts = {
            "contest": CONTEST.name,
            "team": team,
            "fairedge": __version__,
            "commit": source_commit(sources.CHECKOUT),
            "model_sha256": classifier.sha256,
            "recorded_with": device.versions(),
            "wheels": {"machines": machines, "pythons": sources.WHEEL_PYTHONS} if machines else None,
        }
        write_manifest(folder, facts)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
        verdicts = list(look(Submission(folder)))
        if is_zip:
            write_zip(folder, Path(scratch) / "submission.zip")
            folder = Path(scratch) / "submission.zip"
        elif output.exists():
            output.rename(Path(scratch) / "before")
        os.replace(folder, output)
    return verdicts


def _check_output(output: Path, *, is_zip: bool, force: bool) -> None:
    """Says before the work that the output cannot be, or would replace something else than a submission."""
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(output.absolute().parent))
    if not os.path.lexists(output):
        return
    refuse_input(output)
    refuse_folder(output)
    if output.is_symlink() or not (output.is_file() if is_zip else output.is_dir()):
        reason = "is no regular file" if is_zip else "is no folder, expected a folder or FILE.zip"
    elif not is_zip and (output.is_mount() or output.samefile(".")):
        reason = "is a mount or the working folder, expected another one"
    elif not is_zip and any(output.iterdir()) and not (output / MANIFEST).is_file():
        reason = "holds something else than a submission"
    elif not force:
        reason = "exists already (--force replaces it)"
    else:
        return
    raise FileExistsError(errno.EEXIST, reason, str(output))


def _folder_beside(output: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}.")
    except OSError as error:  # which names a folder that nobody asked for
        raise OSError(error.errno, error.strerror, str(output)) from error


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


def _write_code(folder: Path, machines: Sequence[str], tell: Callable[[str], None]) -> None:
    (folder / "code").mkdir()
    sources.build_wheel(folder / "code")
    sources.copy_source(folder / "code/source")
    sources.write_requirements(folder)
    for machine in machines:
        tell(f"fetching the wheels for {machine}")
        (folder / "wheels").mkdir(exist_ok=True)
        sources.download_wheels(folder / "wheels", machine)


def _write_samples(folder: Path) -> list[str]:
    """Draws the sample images, runs them through the model as packed, and returns the lines that give the score."""
    output = folder / "samples"
    write_images(output / "images", CONTEST.sample_groups, CONTEST.classes)
    talk = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(talk):
        status = accuracy.run(
            output / "images", folder / "model/model.onnx", output,
            profile=CONTEST.profile, reference=CONTEST.reference_group, tell=lambda line: None,
        )
    if status != DONE:
        raise ModelError(f"the sample images cannot be scored: {talk.getvalue().strip().splitlines()[-1:]}")
    expected = list(accuracy.summary(output / accuracy.RESULTS))
    (output / accuracy.RESULTS).unlink()
    return expected


def write_images(folder: Path, groups: Sequence[str], classes: Sequence[str]) -> None:
    """Writes `folder`/<group>/<class>/*.jpg: drawn, nobody's skin, so the labels mean nothing."""
    names = [f"{group}/{name}" for group in groups for name in classes]
    for index in range(len(names) * _SAMPLES_OF_CLASS):
        place, number = divmod(index, _SAMPLES_OF_CLASS)
        path = folder / names[place] / f"img_{number + 1}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw(*_SAMPLE_SIZE, index=index), quality=80))


def _write_templates(folder: Path, team: str, machines: Sequence[str], expected: list[str]) -> None:
    (wheel,) = (folder / "code").glob("*.whl")
    where = f"Python {' and '.join(sources.WHEEL_PYTHONS)} on {' and '.join(machines)}"
    values = {
        "title": CONTEST.title,
        "team": _MARKDOWN.sub(r"\\\g<0>", team),
        "pythons": f"{sources.PYTHONS[0]} to {sources.PYTHONS[-1]}",
        "expected": "\n".join(f"    {line}" for line in expected),
        "profile": CONTEST.profile,
        "reference": CONTEST.reference_group,
        "images": str(CONTEST.latency["images"]),
        "runs": str(CONTEST.latency["runs"]),
        "wheel": wheel.name,
        "wheels": where if machines else "none are packed",
    }
    for name in ("README.md", "run_accuracy.sh", "run_latency.sh", "code/environment.sh"):
        text = (_TEMPLATES / Path(name).name).read_text(encoding="utf-8")
        (folder / name).write_text(re.sub(r"@(\w+)@", lambda match: values[match[1]], text), encoding="utf-8")


def _card_and_licences(classifier: Classifier, machines: Sequence[str]) -> dict[str, str]:
    card = classifier.path.with_name(classifier.path.stem.removesuffix(".int8") + ".md")
    beside = classifier.path.with_name("LICENSE-MODELS")
    stated = f"The weights in model/: {classifier.metadata.get('license', 'no licence is stated')}\n"
    note = "Each wheel in wheels/ holds the text of its own licence.\n" if machines else ""
    return {
        "MODEL_CARD.md": _read(card) if card.is_file() else write_card(classifier),
        "LICENSES/code.txt": _read(sources.CHECKOUT / "LICENSE"),
        "LICENSES/model.txt": _read(beside) if beside.is_file() else stated,
        "LICENSES/packages.txt": sources.licences() + note,
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: got no UTF-8 text at byte {error.start}, expected UTF-8") from error


def write_card(classifier: Classifier) -> str:
    """MODEL_CARD.md for a model that has none: what the file says of itself, and what it does not."""
    return "\n".join([*_card(classifier), ""])


def _card(classifier: Classifier) -> Iterator[str]:
    metadata = classifier.metadata
    yield "# Model card\n"
    yield "Written from what the model file says of itself. **It is no medical device.**\n"
    yield "| | |\n| --- | --- |"
    yield f"| Classes, in the order of the logits | {', '.join(classifier.classes)} |"
    yield f"| Preprocessing | `{metadata['preprocess']}` |"
    for name in ("model", "training", "profile"):
        for key, value in weights.stated(metadata, name).items():
            yield f"| {name}: {key} | {_cell(value)} |"
    yield f"| Temperature | {classifier.temperature} |"
    yield f"| Licence of the weights | {metadata.get('license', 'not stated')} |\n"
    yield "## Held-out figures\n"
    rows = list(_figures(weights.stated(metadata, "metrics")))
    if not rows:
        yield "The file states none."
        return
    if "quantization" in metadata:
        yield "Of the float model that this int8 form was made from; `edge-export verify` compares the two.\n"
    yield "| | value | 95 % interval | images |\n| --- | --- | --- | --- |"
    yield from rows


def _figures(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A row of the table for every {value, low, high, n}, at any depth."""
    for name, value in values.items():
        if not isinstance(value, dict):
            continue
        if "value" in value:
            low, high = _number(value.get("low")), _number(value.get("high"))
            ends = "-" if "-" in (low, high) else f"{low} to {high}"
            yield f"| {_cell(prefix + name)} | {_number(value['value'])} | {ends} | {_cell(value.get('n', '-'))} |"
        else:
            yield from _figures(value, f"{prefix}{name} ")


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else "-"


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
