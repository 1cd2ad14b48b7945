"""docs/score.md: its example is what the code computes, its table is what the tables say."""

import re
from pathlib import Path

from bench.metrics.meaning import MEANINGS

PAGE = (Path(__file__).parents[1] / "docs" / "score.md").read_text(encoding="utf-8")


def test_the_example_by_hand_is_what_the_code_computes(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/score.md", "exec"), {})
    shown = capsys.readouterr().out.strip()
    assert f"# {shown}\n" in block
    by_hand = dict(re.findall(r"^\| (accuracy|fairness|latency|total) \| .* = ([0-9.]+) \|$", PAGE, re.MULTILINE))
    assert [float(by_hand[name]) for name in ("accuracy", "fairness", "latency", "total")] == eval(shown)


def test_every_metric_is_there_with_its_direction():
    for name, words in MEANINGS.items():
        if name != "spd_accuracy":  # the same as spd
            assert f"| {words.title} | {words.arrow.strip()} | {words.text} |\n" in PAGE, name


def test_the_glossary_has_the_words():
    words = "ITA SPD PQD DPM EOM U cluster fold gate bound peer LEAKY quartile".split()
    for word in [*words, "held out", "reference group"]:
        assert re.search(rf"^\| (\w+, )*{word}(, \w+)* \| ", PAGE, re.MULTILINE), word
