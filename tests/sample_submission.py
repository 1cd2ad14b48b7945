"""A submission of the bundled model, without a build tool: its wheel is zipped by hand."""

import configparser
import json
from unittest.mock import patch

from edge.classifier import DEFAULT_MODEL
from export.submission import manifest, pack, rules, sources
from export.submission.archive import write_zip

CONTEST = rules.load()


def zip_wheel(folder):
    """What `sources.build_wheel` does, but for pip: the packages and the metadata that is read of them."""
    config = configparser.ConfigParser()
    config.read(sources.CHECKOUT / "setup.cfg", encoding="utf-8")
    name = f"fairedge-{pack.__version__}"
    files = folder.parent / "wheel"
    sources.copy_source(files)
    for left_out in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (files / left_out).unlink()
    info = files / f"{name}.dist-info"
    info.mkdir()
    needs = [f"Requires-Dist: {line}" for line in sources.declared("")]
    needs += [f'Requires-Dist: {line}; extra == "{extra}"' for extra in config["options.extras_require"]
              for line in sources.declared(extra)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: fairedge", *needs, ""]))
    points = config["options.entry_points"]["console_scripts"]
    (info / "entry_points.txt").write_text(f"[console_scripts]{points}\n")
    path = folder / f"{name}-py3-none-any.whl"
    write_zip(files, path)
    return path


def build(output, **order):
    """Packs; returns the verdicts."""
    values = {"model": DEFAULT_MODEL, "checkpoint": None, "team": "a team", "machines": (), "contest": CONTEST}
    with patch.object(sources, "build_wheel", zip_wheel):
        return pack.pack(pack.Order(output=output, **{**values, **order}), lambda line: None)


def again(folder):
    """Writes the manifest anew, so that a planted fault is not found by its hash alone."""
    said = json.loads((folder / manifest.NAME).read_text())
    facts = {name: value for name, value in said.items() if name not in ("schema", "files")}
    manifest.write(folder, facts)
