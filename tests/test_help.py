"""The help of every command: what it shows is true, short enough for 80 columns, and its examples can be typed."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from bench.commands.arguments import PROFILES
from bench.robustness.changes import CHANGES
from edge.output_files import OutputPath

ROOT = Path(__file__).parents[1]
MODULES = {"edge-infer": "edge", "edge-bench": "bench", "edge-train": "train", "edge-export": "export",
           "edge-submit": "export.submission"}
PARSERS = {program: import_module(f"{module}.cli").build_parser() for program, module in MODULES.items()}


def commands():
    for program, parser in PARSERS.items():
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        yield from ((f"{program} {name}", one) for action in below for name, one in action.choices.items())


COMMANDS = dict(commands())
PAGES = {**PARSERS, **COMMANDS}


def typed(text):
    """The commands of ours in a text, as lists of words."""
    text = re.sub(r" *\\\n *", " ", text)
    for line in re.findall(r"^ +(?:\S*/)?(edge-(?:infer|bench|train|export|submit) .*)$", text, re.MULTILINE):
        words = shlex.split(line.replace("...", ""), comments=True)
        ends = [i for i, word in enumerate(words) if word in ("|", "&&", "||", ">", ";")]
        yield words[: min(ends, default=len(words))]


@pytest.fixture(autouse=True)
def a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_are_of_it_and_parse(name):
    found = list(typed(COMMANDS[name].format_help().partition("\nexample")[2]))
    assert found
    for program, *words in found:
        assert f"{program} {words[0]}" == name
        PARSERS[program].parse_args(words)


@pytest.mark.parametrize("program", PARSERS)
def test_the_examples_of_a_program_parse(program):
    found = list(typed(PARSERS[program].format_help().partition("\nexamples")[2]))
    assert found
    for one, *words in found:
        if "COMMAND" not in words:
            PARSERS[one].parse_args(words)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_the_commands_in_the_docs_parse(page):
    for program, *words in typed((ROOT / page).read_text(encoding="utf-8")):
        try:
            PARSERS[program].parse_args(words)
        except SystemExit as stopped:
            assert stopped.code == 0, (program, words)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_80_columns(name):
    wide = [line for line in PAGES[name].format_help().splitlines() if len(line) > 80 and "{" not in line]
    assert wide == []


@pytest.mark.parametrize("name", PAGES)
def test_every_default_is_shown_once_in_one_form(name):
    shown = " ".join(PAGES[name].format_help().split())
    assert "default None" not in shown and "defaults to" not in shown and "[default" not in shown
    for action in PAGES[name]._actions:
        is_value = action.option_strings and isinstance(action.default, (int, float, str)) and action.nargs != 0
        if is_value and action.default != argparse.SUPPRESS:
            text = PAGES[name]._get_formatter()._expand_help(action)
            assert len(re.findall(r"\(.*?\bdefault\b.*?\)", text)) == 1, (action.option_strings, text)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_with_a_gate_says_its_status(name):
    shown = " ".join(COMMANDS[name].format_help().split())
    has_gate = name.split()[1] in ("score robustness pi4b audit fit refit prior onnx verify pack check".split())
    assert ("xit status 6" in shown) == has_gate


def test_what_is_written_is_called_output():
    for name, parser in PAGES.items():
        written = [action for action in parser._actions if action.type is OutputPath and action.option_strings]
        if written:
            assert ["-o", "--output"] in [action.option_strings for action in written] or name == "edge-bench", name


def test_values_that_a_text_lists_are_all_of_them():
    kinds = {kind.replace("border-black", "border").replace("border-white", "border").replace("border-edge", "border")
             for kind in (change.kind for change in CHANGES)}
    texts = {action.dest: action.help for name in ("score", "robustness")
             for action in COMMANDS[f"edge-bench {name}"]._actions}
    listed = texts["only"].partition(": ")[2].partition(";")[0]
    assert set(re.split(r", | or ", listed)) == kinds
    assert all(name in texts["profile"] for name in PROFILES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("edge-train fit DATA --out RUN", "edge-train fit DATA -o RUN"),
        ("edge-train refit DATA RUN --out=NEW", "edge-train refit DATA RUN --output NEW"),
        ("edge-train prior DATA RUN OTHER --out NEW", "edge-train prior DATA RUN OTHER -o NEW"),
        ("edge-bench latency photos --sample 9", "edge-bench latency photos -n 9"),
        ("edge-bench robustness DATA --subset FILE", "edge-bench robustness DATA --held-out FILE"),
        ("edge-export int8 A --calibrate DATA --images 99 -o B", "edge-export int8 A --calibrate DATA --count 99 -o B"),
        ("edge-export verify A B --data D --subset FILE", "edge-export verify A B --data D --held-out FILE"),
        ("edge-export verify A B --data D --allow-leak", "edge-export verify A B --data D --allow-seen"),
    ],
)
def test_an_old_spelling_works_and_is_not_shown(old, new):
    program, *words = old.split()
    assert vars(PARSERS[program].parse_args(words)) == vars(PARSERS[program].parse_args(new.split()[1:]))
    (flag,) = {word.partition("=")[0] for word in words if word.startswith("--")} & {
        "--out", "--sample", "--subset", "--images", "--allow-leak"
    }
    assert not re.search(rf"{flag}\b(?!-)", COMMANDS[f"{program} {words[0]}"].format_help())


def test_images_takes_its_folder_either_way(capsys):
    parser = PARSERS["edge-bench"]
    assert parser.parse_args(["images", "-o", "a"]).output == parser.parse_args(["images", "a"]).out == Path("a")
    for words in (["images"], ["images", "a", "-o", "b"]):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(words)
