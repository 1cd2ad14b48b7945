"""edge <- bench <- train <- export <- research: nothing imports against the chain, and the runtime stays slim."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHAIN = ("edge", "bench", "train", "export", "research")

RUNTIME = {"numpy", "onnxruntime", "PIL", "psutil"}
MORE = {
    "bench/report/page.py": {"jinja2"},
    "bench/report/planes.py": {"matplotlib"},
    "bench/report/plots.py": {"matplotlib"},
    "bench/speed/peers.py": {"cv2", "torch", "MNN"},
}
"""What single files of the slim packages may import besides."""

BLOCKED = ("torch", "onnx", "matplotlib", "cv2", "jinja2", "train", "export", "research")
HEAVY = ("numpy", "PIL", "onnxruntime", "torch", "onnx", "cv2", "matplotlib")


def files_of(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imported_modules(source, package):
    """Absolute dotted names of all imports in a file of `package`, wherever they stand, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".") if node.level else []
            module = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            # `from .. import x` out of the outermost package leaves no module name: x is one itself.
            yield from ((name, node.lineno) for name in ([module] if module else [alias.name for alias in node.names]))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            target = node.args[0].value
            if name in ("import_module", "__import__") and isinstance(target, str) and not target.startswith("."):
                yield target, node.lineno


def violations(source, path):
    """One line for each import in the file `path`, relative to the root, that the layout forbids."""
    package = path.rpartition("/")[0].replace("/", ".")
    layer = path.split("/")[0]
    later = set(CHAIN[CHAIN.index(layer) + 1 :])
    allowed = RUNTIME | MORE.get(path, set()) | set(CHAIN) | sys.stdlib_module_names
    for module, line in imported_modules(source, package):
        top = module.split(".")[0]
        if top in later:
            yield f"{path}:{line}: imports {module} against the chain {' <- '.join(CHAIN)}"
        elif layer in ("edge", "bench") and top not in allowed:
            yield f"{path}:{line}: imports {module}, which the slim install does not have"


def run(program):
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_no_import_against_the_chain():
    found = [
        violation
        for path in files_of(*CHAIN)
        for violation in violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("edge/planted.py", "import bench"),
        ("edge/planted.py", "from bench.metrics.contest import total"),
        ("edge/planted.py", "def f():\n    from train import config"),
        ("edge/planted.py", "import torch"),
        ("edge/planted.py", "try:\n    import cv2\nexcept ImportError:\n    cv2 = None"),
        ("edge/planted.py", "import importlib\nimportlib.import_module('torch.nn')"),
        ("edge/planted.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import jinja2"),
        ("bench/planted.py", "import matplotlib.pyplot as plt"),
        ("bench/report/page.py", "import torch"),
        ("bench/pi4b/planted.py", "from ...train import data"),
        ("train/planted.py", "import numpy, export.to_onnx"),
        ("train/planted.py", "from .. import export"),
        ("edge/planted.py", "import research"),
        ("bench/planted.py", "from research.tables import cell"),
        ("export/planted.py", "def f():\n    from research import ladder"),
    ],
)
def test_checker_finds_a_planted_violation(path, source):
    assert len(list(violations(source, path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("edge/fine.py", "import os.path, numpy as np\nfrom .decode import decode\nfrom . import errors"),
        ("bench/report/page.py", "from jinja2 import Template\nfrom edge import Preprocess"),
        ("bench/pi4b/fine.py", "from ..score import total\nfrom . import model"),
        ("export/fine.py", "import onnx, torch, train.config, bench.metrics.contest, edge"),
        ("research/fine.py", "import onnx, torch, export.to_onnx, train.config, bench.metrics.contest, edge"),
    ],
)
def test_checker_accepts_what_the_layout_allows(path, source):
    assert not list(violations(source, path))


def test_slim_packages_import_without_the_rest():
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in files_of("edge", "bench")
        if path.name not in ("__init__.py", "__main__.py") and path.relative_to(ROOT).as_posix() not in MORE
    ]
    result = run(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED}))\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", [name for name in CHAIN if (ROOT / name / "cli.py").exists()])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(package, flag):
    result = run(
        "import sys\n"
        f"from {package}.cli import main\n"
        f"try: status = main([{flag!r}])\n"
        "except SystemExit as exit: status = exit.code\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("package", ["edge", "bench", "train", "export"])
def test_public_names_are_there(package):
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
