"""Measuring: data sets, accuracy, fairness and speed, with numpy alone, so that it also runs on a Raspberry Pi."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

# Before any module here imports onnxruntime, whose telemetry it turns off.
import edge  # noqa: F401

if TYPE_CHECKING:
    from .arrays import compare, contest_score, evaluate
    from .dataset import index

__all__ = ["compare", "contest_score", "evaluate", "index"]

_HOMES = {"compare": "arrays", "contest_score": "arrays", "evaluate": "arrays", "index": "dataset"}


def __getattr__(name: str) -> object:
    # `edge-bench --help` must answer at once.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
