import re
from pathlib import Path

from edge.classifier import Classifier

DOC = Path(__file__).parents[1] / "docs" / "export.md"


def test_the_example_with_a_network_of_ones_own_runs(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, str(DOC), "exec"), {})
    classifier = Classifier.load(tmp_path / "own.onnx")
    assert classifier.classes == ("ash", "birch", "Cedar") and classifier.preprocess.size_px == 96
