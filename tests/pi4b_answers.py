"""A program that the Pi 4B tests run on this machine and under emulation: everything between a photo and its label.

    python pi4b_answers.py FOLDER MODEL [faults]

With "faults" it computes wrongly, the way a machine of another byte order or a slip of types would, once for each.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from edge.classifier import Classifier
from edge.errors import DecodeError
from edge.photo.decode import decode

FAULTS = {
    "logits in the other byte order": lambda pixels, logits: (pixels, np.frombuffer(logits.tobytes(), ">f4")),
    "pixels as signed bytes": lambda pixels, logits: (pixels.view(np.int8).astype(np.int16) + 128, logits),
    "red and blue swapped": lambda pixels, logits: (pixels[..., ::-1], logits),
}


def answer(classifier, path, fault):
    try:
        pixels = classifier.preprocess.load(path).pixels
        whole = np.asarray(decode(path).image)
    except DecodeError as error:
        return {"error": error.reason}
    logits = classifier.logits(pixels[None])[0]
    if fault:
        pixels, logits = FAULTS[fault](pixels, logits)
    return {
        "pixels": hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
        "whole": hashlib.sha256(np.ascontiguousarray(whole).tobytes()).hexdigest(),
        "logits": logits.tolist(),
    }


def main(folder, model, faults=None):
    classifier = Classifier.load(model)
    paths = sorted(str(path) for path in Path(folder).iterdir())
    if faults:
        print(json.dumps({f: {Path(path).name: answer(classifier, path, f) for path in paths} for f in FAULTS}))
        return
    answers = {Path(path).name: answer(classifier, path, None) for path in paths}
    labels = {
        workers: [[row.status, row.label] for row in classifier.predict(paths, workers=workers)] for workers in (1, 4)
    }
    print(json.dumps({"answers": answers, "labels": labels}))


if __name__ == "__main__":
    main(*sys.argv[1:])
