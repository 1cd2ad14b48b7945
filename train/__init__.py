"""Training with PyTorch: folds, the network, the loop. Never installed on a Raspberry Pi."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import load_model
    from .config import TrainConfig
    from .recipes import RECIPES

__all__ = ["RECIPES", "TrainConfig", "load_model"]

_HOMES = {"RECIPES": "recipes", "TrainConfig": "config", "load_model": "checkpoint"}


def __getattr__(name: str) -> object:
    # `edge-train --help` must answer without PyTorch.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
