"""The self-test of `edge-infer --check`: does this machine run it, and what is this machine? For a bug report."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from . import device
from .errors import ModelError


def environment_problem() -> str | None:
    """One line saying why nothing can run here, or None.

    onnxruntime is imported in a child process, because on a processor it does not support it dies with SIGILL
    (1.21.0 on every Raspberry Pi 4: github.com/microsoft/onnxruntime/issues/23957).
    """
    if sys.maxsize <= 2**32:
        return "32-bit Python: onnxruntime has no 32-bit build; install a 64-bit system (Raspberry Pi OS 64-bit)"
    for name in ("numpy", "onnxruntime", "PIL"):
        child = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
        if child.returncode < 0:
            hint = "install the versions pinned in constraints/ (onnxruntime 1.24 or newer)"
            return f"importing {name} dies with signal {-child.returncode} on this processor; {hint}"
        if child.returncode:
            return f"{name} cannot be imported: {(child.stderr.strip() or 'no message').splitlines()[-1]}"
    return None


def report(model: Path) -> Iterator[str]:
    """The lines of a self-test that sends one generated image through everything.

    Raises:
      ModelError: the model cannot be used, or its answer is not a probability.
    """
    import numpy as np
    from PIL import Image, features

    from .classifier import Classifier

    for name, text in device.versions().items():
        yield f"{name}: {text}"
    yield f"libjpeg-turbo: {features.version_feature('libjpeg_turbo')}"
    yield f"littlecms: {features.version('littlecms2') or 'missing: photos with a colour profile will be errors'}"
    for name, value in device.record().items():
        yield f"{name}: {'not known' if value is None else value}"
    start = perf_counter()
    classifier = Classifier.load(model)
    yield f"model: {model.name} ({len(classifier.classes)} classes, {classifier.preprocess.size_px} px)"
    yield f"model_sha256: {classifier.sha256}"
    if classifier.training.get("leaky") is True:  # it says that training and held-out data were not kept apart
        yield "model_training: LEAKY: it saw held-out images or patients in training, so its figures mean little"
    yield f"model_load_ms: {1e3 * (perf_counter() - start):.1f}"
    ramp = np.linspace(0, 255, 640 * 480 * 3).reshape(480, 640, 3).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(ramp).save(jpeg, "JPEG", quality=90)
    prediction = next(classifier.predict([jpeg.getvalue()], workers=1, batch_size=1))
    if prediction.status != "ok" or prediction.probabilities is None:
        raise ModelError(f"{model}: self-test failed: {prediction.error}")
    total = float(prediction.probabilities.sum())
    if abs(total - 1) > 1e-3:
        raise ModelError(f"{model}: self-test failed: the probabilities add up to {total}, expected 1")
    yield f"self_test: ok, a 640x480 JPEG took {prediction.decode_ms:.1f} ms + {prediction.infer_ms:.1f} ms"
