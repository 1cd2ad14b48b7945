"""The page says what the results say, and nothing that is in a name can change the page."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from simulated_results import SIZES, latency, pairs, result

import bench
from bench.cli import main
from bench.dataset import NOT_STATED, ONE_GROUP
from bench.metrics import contest
from bench.metrics.evaluation import Setting
from bench.report import csv_tables
from bench.report import page as report
from bench.report import planes, plots, words
from bench.results import build, document
from edge.errors import EdgeError

HOSTILE = "<script>alert(1)</script>&\"'|`$x$ #010101 id=\"a\"\x07"
VOID = {"meta", "br", "img"}
PROSE = {"0.667", "0.05", "0.2", "0.944", "0.033", "0.011", "0.72", "0.98", "0.01", "0.8"}
"""Numbers that the page says of the contest, not of a result."""


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return result("small", draws=200, with_robustness=True)


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return result("large", draws=200)


@pytest.fixture(scope="module")
def contents(small: dict[str, Any]) -> dict[str, str]:
    """The files of a report of one result, with its pictures."""
    return report.render({"small": small})


@pytest.fixture(scope="module")
def page(contents: dict[str, str]) -> str:
    return contents["index.html"]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no picture drawn but those of several results: they are most of what a page costs."""
    for function in ("accuracies", "found", "fairness", "reliability", "percentiles", "stages", "_strengths"):
        monkeypatch.setattr(plots, function, lambda name, *_, **__: f'<svg aria-labelledby="{name}"></svg>')


def saved(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.json"
    document.write_json(path, content)
    return path


def changed(value: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(value), **parts}


class Outline(HTMLParser):
    """Checks that tags are balanced; collects ids, links and the text outside style and svg."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg", "pre"} & set(self.open):
            self.text.append(data)


def test_page_is_whole_and_needs_nothing_else(page: str) -> None:
    outline = Outline(page)
    assert not outline.open
    assert page.startswith("<!DOCTYPE html>")
    assert outline.tags["script"] == 0 and outline.tags["link"] == 0 and outline.tags["img"] == 0
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page
    assert all(link.startswith("#") and link[1:] in outline.ids for link in outline.links)
    assert max(Counter(outline.ids).values()) == 1
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(outline.ids)
    assert outline.tags["svg"] == 9  # three of them of changes
    assert page.count('role="img" aria-labelledby') == 9


def test_pictures_take_their_colours_from_the_page(page: str) -> None:
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    declared = set(re.findall(r"(--[a-z-]+):", page))
    assert set(re.findall(r"var\((--[a-z-]+)\)", page)) <= declared
    assert "#01010" not in pictures and "var(--ink)" in pictures
    # The caps of an interval are lines, to which matplotlib gives a fill all the same.
    assert set(re.findall(r"#[0-9a-f]{6}", pictures)) <= {"#1f77b4"}


def numbers_of(contents: dict[str, str]) -> set[str]:
    """Every number of the CSV files as the page would round it."""
    found = set()
    for name, text in contents.items():
        if name.endswith(".csv"):
            for row in csv.reader(io.StringIO(text)):
                for field in row:
                    try:
                        found |= {words.number(float(field), digits) for digits in (1, 2, 3)}
                    except ValueError:
                        pass
    return found


def numbers_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\N{MINUS SIGN}?\d+\.\d+(?![\w.])", text))


def test_every_number_is_in_the_tables_and_in_the_json(
    small: dict[str, Any], large: dict[str, Any], undrawn: None
) -> None:
    contents = report.render({"small": small, "large": large})
    known = numbers_of(contents) | PROSE
    for name in ("index.html", "summary.md"):
        text = " ".join(Outline(contents[name]).text) if name == "index.html" else contents[name]
        shown = numbers_in(text)
        assert len(shown) > 40
        assert shown <= known, sorted(shown - known)
    in_json = {float(text) for text in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", json.dumps([small, large]))}
    for row in csv.DictReader(io.StringIO(contents["metrics.csv"])):
        if "." in row["value"]:
            assert float(row["value"]) in in_json


def test_tables_hold_the_results(small: dict[str, Any], contents: dict[str, str]) -> None:
    assert {*contents, csv_tables.PAIR} == set(report.FILES)
    rows = list(csv.DictReader(io.StringIO(contents["metrics.csv"])))
    (spd,) = [row for row in rows if row["metric"] == "score.spd"]
    assert float(spd["value"]) == small["score"]["spd"]["value"] and float(spd["low"]) == small["score"]["spd"]["low"]
    keys = [(row["metric"], row["group"], row["class"]) for row in rows]
    assert max(Counter(keys).values()) == 1
    confusion = list(csv.DictReader(io.StringIO(contents["confusion.csv"])))
    assert sum(int(row["images"]) for row in confusion if row["group"] == "G7") == SIZES["G7"]
    assert sum(int(row["images"]) for row in confusion if row["group"] == "") == sum(SIZES.values())
    costs = list(csv.DictReader(io.StringIO(contents["robustness.csv"])))
    keys = [(row["change"], row["metric"], row["group"]) for row in costs]
    assert max(Counter(keys).values()) == 1
    (turned,) = [row for row in costs if (row["change"], row["metric"]) == ("turn-90", "difference.accuracy")]
    (turn,) = [row for row in small["robustness"]["changes"] if row["name"] == "turn-90"]
    assert float(turned["low"]) == turn["difference"]["accuracy"]["low"]
    bins = list(csv.DictReader(io.StringIO(contents["calibration.csv"])))
    assert sum(int(row["images"]) for row in bins if row["group"] == "") == sum(SIZES.values())


def test_equal_input_gives_equal_bytes(small: dict[str, Any], contents: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "report", saved(tmp_path, "small", small), "-o", tmp_path / "out", "-q"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run(command, check=True, env=environment, cwd=Path(bench.__file__).parent.parent)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == contents


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    names = {"BCC": HOSTILE, "G7": '#010101 <b id="'}
    found = [
        (
            replace(sample, label=names.get(sample.label, sample.label), group=names.get(sample.group, sample.group)),
            replace(p, label=names.get(p.label, p.label)),
        )
        for sample, p in pairs(sizes={"G7": 60, "G10": 60})
    ]
    made = result("small", draws=50, sizes={"G7": 60, "G10": 60})
    classes = [names.get(name, name) for name in made["classes"]]
    setting = Setting(contest.PROFILES["esfair2023"], "G10", malignant=(HOSTILE,), draws=50)
    made |= build.metrics(found, classes, setting)
    made["data"]["name"] = HOSTILE
    made |= {"valid": False, "reasons": [HOSTILE], "warnings": [HOSTILE]}
    made["date"] = HOSTILE
    about = {"file": HOSTILE, "card": HOSTILE, "license": HOSTILE, "model": {"variant": HOSTILE}}
    made["predictions"]["model"] = {**about, "training": {"data": HOSTILE, "weights": HOSTILE, "commit": HOSTILE}}
    made["predictions"] |= {"model_sha256": HOSTILE, "versions": {HOSTILE: HOSTILE}, "preprocess": {HOSTILE: HOSTILE}}
    contents = report.render({HOSTILE: made})
    page = contents["index.html"]
    outline = Outline(page)
    assert not outline.open and outline.tags["script"] == 0
    assert "<script" not in page and "alert(1)" in page
    assert max(Counter(outline.ids).values()) == 1
    assert "#010101 &lt;b" in "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))  # text is not taken for a colour
    assert "<script" not in contents["summary.md"]
    assert "&lt;script&gt;" in contents["summary.md"]
    rows = list(csv.DictReader(io.StringIO(contents["metrics.csv"])))
    assert {row["class"] for row in rows} >= {HOSTILE}


def test_the_title_and_the_facts_say_what_was_scored(small: dict[str, Any], undrawn: None) -> None:
    about = {
        "file": "net.int8.onnx", "bytes": 3_640_797, "card": "net.md", "license": "CC0",
        "model": {"variant": "net", "parameters": 3_357_686, "macs": 125_365_248},
        "training": {"data": "ham", "recipe": "lite", "hold_out": 0, "commit": "0123456789", "leaky": True},
    }
    made = changed(small, date="2026-11-28")
    made["predictions"] |= {"model": about, "preprocess": {"size_px": 128, "resize": "crop"}}
    contents = report.render({"file-name": made})
    text = " ".join(" ".join(Outline(contents["index.html"]).text).split())
    assert "<title>net.int8 on simulated</title>" in contents["index.html"] and "file-name" not in text
    for said in (
        "scored 2026-11-28", "Model net.int8.onnx Model card net.md", "Licence CC0",
        "net, 3,641 kB, 3,357,686 parameters, 125 million multiply-adds",
        "128 × 128 pixels, the central square of a photo",
        "ham, recipe lite, fold 0 held out, commit 0123456, LEAKY: it saw held-out images",
    ):
        assert said in text
    assert "Model: net.int8.onnx" in contents["summary.md"] and "Scored 2026-11-28" in contents["summary.md"]
    older = changed(small)
    older["predictions"] = {}
    assert "not described in the predictions file" in report.render({"x": older})["index.html"]


def test_sensitivity_stands_on_top(small: dict[str, Any], page: str) -> None:
    found = words.sensitivities(small, small)
    assert [kind["name"] for kind in found] == ["Melanoma sensitivity", "Malignant sensitivity", "Specificity"]
    assert found[0]["whole"] == small["by_class"]["MEL"]["recall"] and "basal cell carcinoma" in found[1]["text"]
    lowest = min(small["by_group"], key=lambda group: small["by_group"][group]["recall"]["MEL"]["value"])
    assert found[0]["lowest"] == lowest
    text = " ".join(" ".join(Outline(page).text).split())
    whole = found[0]["whole"]
    missed = round(whole["n"] * (1 - whole["value"]))
    assert f"Melanomas found {words.number(whole['value'])}" in text and f"{missed} of {whole['n']} missed" in text
    assert page.index("Melanomas found") < page.index("What these numbers say")
    assert page.count('style="--s:') >= 5 * 36 + 20  # the confusion matrices, and recall where 10 images or more say it


@pytest.mark.parametrize(("classes", "malignant", "names"), [
    (("Melanoma", "nevus"), ("Melanoma",), ["Malignant sensitivity", "Specificity"]),
    (("benign", "malignant"), ("malignant",), ["Malignant sensitivity", "Specificity"]),
    (("Melanoma", "nevus"), (), ["Melanoma sensitivity"]),
    (("lentigo_maligna", "melanoma", "x"), ("lentigo_maligna", "melanoma"), ["Malignant sensitivity", "Specificity"]),
    (("acne", "psoriasis"), (), []),
])
def test_what_counts_as_melanoma(classes: tuple[str, ...], malignant: tuple[str, ...], names: list[str]) -> None:
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    own = {"recall": dict.fromkeys(classes, rate)}
    kinds = {"sensitivity": rate, "specificity": rate}
    part = {"by_group": {"a": own}, "malignant": None}
    if malignant:
        part["malignant"] = {"classes": list(malignant), **kinds, "by_group": {"a": kinds}}
    whole = {"classes": list(classes), "by_class": {name: {"recall": rate} for name in classes}}
    assert [kind["name"] for kind in words.sensitivities(part, whole)] == names


def test_no_malignant_class_is_said(undrawn: None) -> None:
    made = result("small", draws=50, with_latency=False)
    made = changed(made, malignant=None, classes=["a", "b", "c", "d", "e", "f"])
    names = dict(zip(("BCC", "BKL", "MEL", "NV", "unknown", "VASC"), made["classes"], strict=True))
    for part in (made, *made["by_group"].values()):
        key = "by_class" if "by_class" in part else "recall"
        part[key] = {names[name]: value for name, value in part[key].items()}
    page = report.render({"x": made})["index.html"]
    assert "None of the classes is known to be malignant" in page and "-found" not in page


def test_data_without_groups_and_images_of_the_training(undrawn: None) -> None:
    made = result("small", draws=50, sizes={ONE_GROUP: 120}, with_latency=False)
    setting = Setting(contest.PROFILES["esfair2023"], ONE_GROUP, malignant=("BCC", "MEL"), draws=50)
    made |= build.metrics(pairs(sizes={ONE_GROUP: 120}), made["classes"], setting)
    made["data"]["trained_on"] = 7
    contents = report.render({"x": made})
    outline = Outline(contents["index.html"])
    text = " ".join(" ".join(outline.text).split())
    assert not outline.open and not {"a-groups", "a-fairness"} & {*outline.ids}
    assert "6 classes, no groups" in text and "Fairness not defined no groups" in text and "Total of 1/3" in text
    assert "Worst group" not in text and "fair value" not in text and text.count("Confusion matrices") == 1
    assert "The model was trained on 7 of these images" in text and "**Not held out**" in contents["summary.md"]
    assert "| fairness (contest) | no groups |" in contents["summary.md"] and "| Gap" not in contents["summary.md"]
    page = report.render({"x": made, "y": made})["index.html"]
    assert "B minus A, paired" in page and "Accuracy in all" not in page


def test_groups_are_explained() -> None:
    assert "ita_q1 has the smallest angles, the darkest skin; ita_q4" in words.groups_meaning(
        ["ita_q4", "ita_q2", "ita_q1", "ita_q3", NOT_STATED]
    )
    assert "I is the lightest" in words.groups_meaning(["I-II", "III-IV", "V-VI", "unknown"])
    assert "does not say which of them is darker" in words.groups_meaning(["G6", "G10"])
    assert words.groups_meaning(["female", "male"]) == words.groups_meaning(["0-39", "60+"]) == ""


def test_long_labels_of_bars_are_not_clipped() -> None:
    for longest in (2.5, 241.92, 12345.67):
        svg = plots.stages("x", {"decode": {"per_image": longest, "share": 1.0}})
        text = f"{longest:.2f} ms"
        ((start, anchored),) = re.findall(rf"translate\(([\d.]+) [\d.]+\)\">({re.escape(text)})<", svg) or [
            (found, text) for found in re.findall(rf'x="([\d.]+)"[^>]*>{re.escape(text)}<', svg)
        ]
        assert float(start) + 7 * len(anchored) <= plots.WIDTH_PX


def test_marks_of_equal_results_do_not_hide_each_other() -> None:
    point = {"value": 0.8, "low": None}
    points = {letter: (point, point) for letter in "ABC"}
    svg = planes._draw("x", "t", points, {*"ABC"}, x_label="x", y_label="y", is_time=False)
    radii = [float(size) for size in re.findall(r"M 0 ([\d.]+) \nC|M 0 ([\d.]+) ?C", svg) for size in size if size]
    assert len(set(radii)) == 3 and radii == sorted(radii, reverse=True)
    offsets = planes._label_offsets(planes.np.array([[50.0, 50], [50, 50], [50, 50], [55, 50]]))
    places = {(round(x), round(y)) for x, y in offsets}
    assert len(places) >= 3


def test_shades_can_be_read() -> None:
    style = (Path(report.__file__).parent / "templates" / "style.css.j2").read_text()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", part)) for part in style.split("dark)")[:2])

    def rgb(colour: str) -> list[float]:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]

    def luminance(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colours in (light, dark):
        for name, share in (("missed", 0.60), ("accent", 0.55)):
            pairs_of = zip(rgb(colours[name]), rgb(colours["surface"]), strict=True)
            shaded = [share * a + (1 - share) * b for a, b in pairs_of]
            low, high = sorted((luminance(shaded), luminance(rgb(colours["ink"]))))
            assert (high + 0.05) / (low + 0.05) > 4.5


def test_two_results_have_their_paired_differences(
    small: dict[str, Any], large: dict[str, Any], undrawn: None
) -> None:
    contents = report.render({"small": small, "large": large})
    page = contents["index.html"]
    rows = list(csv.DictReader(io.StringIO(contents[csv_tables.PAIR])))
    (accuracy,) = [row for row in rows if (row["metric"], row["group"]) == ("accuracy", "")]
    assert float(accuracy["value"]) == pytest.approx(large["accuracy"]["value"] - small["accuracy"]["value"])
    assert accuracy["verdict"] == "B better" and "B minus A, paired" in page and "replace A" in page
    # On paper the pictures are below the table.
    assert '<div class="pair stacked">' in page and ".stacked { display: block" in page
    assert "edge-bench compare A.json" not in page and "replace A" in contents["summary.md"]
    other = changed(large)
    other["samples"]["cluster"][0] = "another"
    page = report.render({"small": small, "large": other})["index.html"]
    assert "B minus A, paired" not in page and "edge-bench compare A.json" in page
    for results in ({"small": small}, {"a": small, "b": large, "c": large}):
        assert csv_tables.PAIR not in report.render(results)


def test_a_latency_that_is_not_valid_is_said_where_it_stands(page: str, undrawn: None) -> None:
    made = result("small", draws=50, with_latency=False)
    build.add_latency(made, latency(3.0, reasons=("governor is ondemand",)))
    contents = report.render({"small": made})
    found = contents["index.html"]
    assert found.count("governor is ondemand") == 1 and "latency: governor" not in found
    assert found.index("This latency is not valid") > found.index('id="a-latency"')
    assert "not valid: see Latency" in found and "with a latency that is not valid" in found
    assert '<div class="bad"><strong>Not valid' not in found  # over the whole page
    assert "**not valid**: governor is ondemand" in contents["summary.md"]
    assert "not valid" not in page
    other = report.render({"small": changed(made, reasons=["something else"])})["index.html"]
    assert other.index("something else") < other.index('class="cards"')


def test_what_is_absent_is_said(undrawn: None) -> None:
    made = result("levelled", draws=50, probabilities=False, sizes={"G7": 80, "G10": 80})
    contents = report.render({"x": made})
    page = contents["index.html"]
    assert "no probabilities of all classes" in page and "edge-infer --probs" in page
    assert "not measured" in page and "edge-bench latency" in page and "Total of two thirds" in page
    assert not {"calibration.csv", "latency.csv", "robustness.csv"} & set(contents)
    assert "edge-bench robustness -m MODEL DATA" in page
    assert "not measured" in contents["summary.md"] and "total of two thirds" in contents["summary.md"]


def test_undefined_metrics_have_their_reason() -> None:
    made = result("small", draws=50, sizes={"G10": 40}, with_latency=False)
    page = report.render({"x": made})["index.html"]
    assert page.count("fewer than two groups with images") >= 12
    assert "not defined" in page and "There is no fair model to compare with" in page
    Outline(page)


@pytest.mark.parametrize(("sizes", "reason"), [
    ({"G7": 80, "G10": 5}, "no interval: a compared group has under 10 images"),
    ({"G7": 8, "G10": 8}, "no class has 10 images in each of two groups"),
])
def test_small_groups_are_marked(sizes: dict[str, int], reason: str) -> None:
    page = report.render({"x": result("small", draws=50, sizes=sizes, with_latency=False)})["index.html"]
    assert reason in page and "not known to ±0.05" in page and "Hatched" in page and "<pattern" in page
    assert "Warnings" in page


def test_deep_nesting_is_refused(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.json").write_text("[" * 100_000)
    with pytest.raises(EdgeError, match="not JSON"):
        report.load([tmp_path / "r.json"])
    nested: list[Any] = []
    for _ in range(5000):  # from Python 3.12 on its JSON reader goes deeper than Python itself
        nested = [nested]
    monkeypatch.setattr(document, "load", lambda path: {**small, "x": nested})
    with pytest.raises(EdgeError, match="nested too deeply"):
        report.load([tmp_path / "r.json"])


def test_the_page_is_written_last(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    def fill(path: Path, content: str) -> None:
        if path.name == "metrics.csv":
            raise OSError(28, "No space left on device", str(path))
        path.write_text(content)

    monkeypatch.setattr(report, "write_output", fill)
    with pytest.raises(OSError, match="No space"):
        report.write({"x": small}, tmp_path)
    assert not (tmp_path / "index.html").exists()


def by_columns(made: dict[str, Any], *columns: str) -> dict[str, Any]:
    """The result scored by further columns: of every image one of two groups, or none that is stated."""
    names = ("female", "male", "male", NOT_STATED)
    group_of = {path: names[i % 4] for i, path in enumerate(made["samples"]["path"])}
    setting = Setting(contest.PROFILES["esfair2023"], "G10", malignant=("BCC", "MEL"), draws=100)
    found = build.further(made["samples"], made["classes"], setting, dict.fromkeys(columns, group_of))
    return changed(made, groupings=found)


def test_further_columns_have_a_section_each(small: dict[str, Any], undrawn: None) -> None:
    small = {key: value for key, value in small.items() if key != "robustness"}  # of `edge-bench score`
    made = by_columns(small, "sex", HOSTILE)
    contents = report.render({"x": made, "plain": small})
    outline = Outline(contents["index.html"])
    assert not outline.open and outline.tags["script"] == 0 and max(Counter(outline.ids).values()) == 1
    assert all(link[1:] in outline.ids for link in outline.links)
    assert {"a-groups-by-1", "a-groups-by-2"} <= {*outline.ids} and "b-groups-by-1" not in outline.ids
    text = " ".join(" ".join(outline.text).split())
    part = made["groupings"]["sex"]
    worst = min(("female", "male"), key=lambda name: part["by_group"][name]["accuracy"]["value"])
    assert f"Groups by sex {worst} is the group served worst" in text
    assert f"gap of {words.number(part['null']['equal_accuracy']['gap']['value'])} on these images" in text
    assert "not stated not compared" in text and "is not stated: they are compared with no other" in text
    assert numbers_in(text) <= numbers_of(contents) | PROSE
    rows = list(csv.DictReader(io.StringIO(contents["metrics.csv"])))
    keys = [(row["result"], row["metric"], row["group"], row["class"]) for row in rows]
    assert max(Counter(keys).values()) == 1
    (gap,) = [row for row in rows if row["metric"] == "groupings.sex.fairness.gap" and not row["group"]]
    assert float(gap["value"]) == part["fairness"]["gap"]["value"]
    assert f"| {NOT_STATED} | " in contents["summary.md"] and "<script" not in contents["summary.md"]
    assert "--group group --group sex --group" in contents["index.html"]
    assert "--exclude-group" not in contents["index.html"]


def test_sections_can_be_chosen(
    small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], undrawn: None
) -> None:
    path, out = saved(tmp_path, "r", by_columns(small, "sex", "age")), tmp_path / "out"
    assert run("report", path, "-o", out, "--group", "age", "-q") == 0
    page = (out / "index.html").read_text()
    assert "Groups by age" in page and "Groups by sex" not in page
    for columns, status, message in ((["site"], 3, "was not scored by site, got group, sex, age"),
                                     (["sex", "sex"], 2, "--group sex is given twice")):
        flags = [flag for column in columns for flag in ("--group", column)]
        assert run("report", path, "-o", tmp_path / "none", *flags) == status
        assert message in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_results_by_other_columns_are_not_ranked(small: dict[str, Any], undrawn: None) -> None:
    other = changed(small)
    other["data"]["group_column"] = "sex"
    assert "differ in column of groups:" in report.render({"a": small, "b": other})["index.html"]


def test_large_groups_are_not_hatched() -> None:
    page = report.render({"x": result("large", draws=50, sizes={"G7": 900, "G10": 900})})["index.html"]
    assert "Hatched" not in page and "<pattern" not in page


def test_several_results_are_held_against_each_other(
    small: dict[str, Any], large: dict[str, Any], undrawn: None
) -> None:
    levelled = result("levelled", draws=200)
    page = report.render({"small": small, "large": large, "levelled": levelled})["index.html"]
    outline = Outline(page)
    assert not outline.open and max(Counter(outline.ids).values()) == 1
    assert all(link[1:] in outline.ids for link in outline.links)
    assert "on the Pareto front (B, C)" in page  # accuracy and fairness
    assert "on the Pareto front (A, B)" in page  # latency
    assert "edge-bench compare" in page and "Not comparable.</strong> These results" not in page


def test_results_of_other_images_are_not_ranked(small: dict[str, Any], undrawn: None) -> None:
    other = changed(result("large", draws=50, seed=1))
    other["score"]["profile"] = "esfair2023-page"
    contents = report.render({"a": small, "b": other})
    assert "differ in images, profile" in contents["index.html"]
    assert "Pareto" not in contents["index.html"] and 'id="plane-' not in contents["index.html"]
    assert "differ in images, profile" in contents["summary.md"]


def test_front() -> None:
    scores = {"a": (0.9, 0.5), "b": (0.8, 0.9), "c": (0.8, 0.8), "d": (0.9, 0.5), "e": (0.7, 0.9)}
    assert planes._front(scores) == {"a", "b", "d"}


def test_page_carries_its_caveats(page: str) -> None:
    text = " ".join(" ".join(Outline(page).text).split())
    for said in ("A group is not a skin tone", "Not a medical device", "cannot see the training data"):
        assert said in text


def test_letters_and_names() -> None:
    assert words.letters(28)[24:] == ["Y", "Z", "A1", "B1"]
    assert words.number(None) == "\N{EN DASH}" and words.number(-0.25) == "\N{MINUS SIGN}0.250"
    assert plots._short("a\x00b" + 20 * "c", 5) == "a\N{REPLACEMENT CHARACTER}bc…"


def test_file_names_tell_results_apart(small: dict[str, Any], tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        saved(tmp_path / folder, "r", small)
    paths = [tmp_path / "x/r.json", tmp_path / "y/r.json"]
    assert list(report.load(paths)) == ["x/r", "y/r"]
    with pytest.raises(EdgeError, match="different names"):
        report.load([paths[0], paths[0]])


def test_command(small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], undrawn: None) -> None:
    path, out = saved(tmp_path, "small", small), tmp_path / "deep" / "out"
    assert run("report", path, "-o", out) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"edge-bench: wrote {out}/index.html")
    assert run("report", path, "-o", out) == 2
    assert "is not empty (--force" in capsys.readouterr().err
    (out / "mine.txt").write_text("keep")
    small = changed(small, latency=None, calibration=None)
    small["score"] |= {"latency": None, "total": None}
    saved(tmp_path, "small", small)
    assert run("report", path, "-o", out, "--force", "-q") == 0
    assert capsys.readouterr() == ("", "")
    left = set(report.FILES) - {"latency.csv", "calibration.csv", csv_tables.PAIR}
    assert {file.name for file in out.iterdir()} == left | {"mine.txt"}
    assert run("report", path, "-o", path) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_missing_packages_are_one_line(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("page", "plots"):
        monkeypatch.delitem(sys.modules, f"bench.report.{name}")
        monkeypatch.delattr(bench.report, name)
    assert run("report", "x.json", "-o", tmp_path / "out") == 5
    expected = "edge-bench: report needs matplotlib and jinja2: pip install -e '.[report]' in the checkout\n"
    assert capsys.readouterr() == ("", expected)


def spoil(made: dict[str, Any], *keys: str, value: Any = None) -> dict[str, Any]:
    made = inner = copy.deepcopy(made)
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return made


@pytest.mark.parametrize(("keys", "value", "message"), [
    (("schema",), None, "got schema None, expected 'edge-bench/1'"),
    (("samples",), None, "has no samples"),
    (("accuracy", "low"), None, "expected value, low, high and n"),
    (("accuracy", "value"), float("nan"), "got nan, expected a finite number or null"),
    (("interval",), None, "not as `edge-bench score` writes it"),
    (("fairness", "pqd"), 3, "not as `edge-bench score` writes it"),
    (("fairness", "pqd", "by_group", "G10"), 3, "not as `edge-bench score` writes it"),
    (("confusion_matrix",), [[1]], "not as `edge-bench score` writes it"),
])
def test_damaged_results_are_one_line(
    keys: tuple[str, ...], value: Any, message: str, small: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], undrawn: None,
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(spoil(small, *keys, value=value)))
    assert run("report", path, "-o", tmp_path / "out") == 3
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_latency_alone_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "latency", {"schema": document.SCHEMA, **latency(3.0)})
    with pytest.raises(EdgeError, match="has no samples, expected the JSON of `edge-bench score -o`"):
        report.load([path])
