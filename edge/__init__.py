"""The slim runtime: photos in, predictions out, on a Raspberry Pi or any Linux machine.

    from edge import Classifier

    classifier = Classifier.load()
    print(classifier("photo.jpg").label)  # one image: a path, bytes, a PIL image or an RGB array
    for prediction in classifier.predict(paths):  # many, in order, on all cores, in bounded memory
        print(prediction.path, prediction.label, prediction.confidence)

Needs numpy, onnxruntime, Pillow and psutil, and imports nothing heavy until a name below is used. Import it before
onnxruntime: it turns that library's telemetry off, which cannot be done later.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .classifier import Classifier
    from .errors import DecodeError, EdgeError, ModelError
    from .photo.decode import PixelLimits
    from .photo.preprocess import Preprocess
    from .predictions import Prediction

__all__ = ["Classifier", "DecodeError", "EdgeError", "ModelError", "PixelLimits", "Prediction", "Preprocess"]
__version__ = "0.1.0"

# Nobody else learns what is classified here. onnxruntime reads this once, while it is imported; without it, it looks up
# its vendor's host and keeps a device id and a database of events below the user's cache folder.
# Source: github.com/microsoft/onnxruntime/pull/27379
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_HOMES = {
    "Classifier": "classifier",
    "DecodeError": "errors",
    "EdgeError": "errors",
    "ModelError": "errors",
    "PixelLimits": "photo.decode",
    "Prediction": "predictions",
    "Preprocess": "photo.preprocess",
}


def __getattr__(name: str) -> object:
    # `edge-infer --help` and `--version` must answer at once, and numpy with onnxruntime takes 0.3 s on a laptop.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
