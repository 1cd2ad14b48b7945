"""Leaves out test files whose packages are not installed, and says so.

A Raspberry Pi has no PyTorch: there `make test` runs the tests of `edge` and `bench` alone.
"""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import edge  # noqa: F401, turns onnxruntime's telemetry off before a test imports it

_NEEDS = {  # start of a test file's name -> modules it needs
    "test_train_": ("torch",),
    "test_export_": ("torch", "onnx"),
    "test_bench_report": ("matplotlib", "jinja2"),
}
_left_out = {}


def pytest_configure():
    # A shell starts what it runs in the background with Ctrl-C ignored, and nohup with the end of the session; so
    # would be what the tests start, to end it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_signals():
    """A command that was interrupted ignores Ctrl-C from then on, which in a test is the process of all tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_ignore_collect(collection_path: Path):
    for start, modules in _NEEDS.items():
        missing = [name for name in modules if find_spec(name) is None]
        if collection_path.name.startswith(start) and missing:
            _left_out[collection_path.name] = missing
            return True
    return None


@pytest.fixture(scope="session")
def submission(tmp_path_factory):
    """The bundled model's submission as a folder, packed once: tests read it, or edit a copy."""
    from sample_submission import build

    folder = tmp_path_factory.mktemp("a folder") / "submission"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def small_networks():
    """Has "mobilenet_v3_small" be a small body, for tests of what surrounds a network: it takes a tenth of the time."""
    from sample_networks import small_body

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.networks.network.MobileNetV3Small", small_body)
        yield


def pytest_terminal_summary(terminalreporter):
    for name, missing in sorted(_left_out.items()):
        terminalreporter.write_line(f"LEFT OUT tests/{name}: {', '.join(missing)} not installed")


@pytest.fixture
def forget_modules(monkeypatch):
    """Has the modules of a package imported anew until the test ends; then also their parents' attributes are back."""

    def forget(package, *, kept=()):
        names = [name for name in sys.modules if name.startswith(f"{package}.") and name not in kept]
        for name in names:
            parent, _, child = name.rpartition(".")
            monkeypatch.setattr(sys.modules[parent], child, sys.modules[name], raising=False)
        for name in names:
            monkeypatch.delitem(sys.modules, name)

    return forget
