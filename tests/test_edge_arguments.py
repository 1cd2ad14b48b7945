"""The parser that all commands share: its mistakes, its help."""

import re

import pytest

from edge.arguments import ArgumentParser


@pytest.fixture
def parser():
    parser = ArgumentParser(prog="tool")
    add_command = parser.add_commands()
    score = add_command("score", "score it", example="tool score a\ntool score b", group="your photos")
    score.add_argument("--runs", type=int, default=0, metavar="N", help="timed passes")
    score.add_argument("--share", type=float, default=0.25, metavar="X", help="of them")
    score.add_argument("--errors", default="wrong", metavar="X", help="what counts (default: as %(default)s)")
    score.add_argument("--force", action="store_true", help="replace it")
    tables = add_command("tables", "make tables", description="Tables of all.", group="maintainers")
    tables.add_argument("-r", "--recursive", action="store_true", help="search folders")
    add_command("show", "show it", group="your photos")
    return parser


def answer(parser, capsys, *arguments):
    with pytest.raises(SystemExit) as info:
        parser.parse_args(arguments)
    out, err = capsys.readouterr()
    return info.value.code, out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "-r"], "tool score: unknown argument -r (see tool score --help)\n"),
        (["score", "--runs=1", "--recursive"], "tool score: unknown argument --recursive (see tool score --help)\n"),
        (["-v", "score"], "tool score: unknown argument -v (see tool score --help)\n"),
        (["score", "--device", "x"], "tool score: unknown argument --device (see tool score --help)\n"),
        (["score", "--run=1"], "tool score: unknown argument --run=1 (did you mean --runs?) (see tool score --help)\n"),
        (["score", "--runs", "x"], "tool score: argument --runs: invalid int value: 'x' (see tool score --help)\n"),
        (["-x"], "tool: the following arguments are required: COMMAND (see tool --help)\n"),
    ],
)
def test_a_mistake_names_the_help_of_its_command_and_no_flag_of_another(parser, capsys, arguments, message):
    assert answer(parser, capsys, *arguments) == (2, "", message)


def test_an_error_that_a_command_finds_later_names_its_help(parser, capsys):
    parser.parse_args(["score"])
    with pytest.raises(SystemExit, match="2"):
        parser.error("got no photos")
    assert capsys.readouterr().err == "tool score: got no photos (see tool score --help)\n"


def test_without_a_command_the_help_is_printed(parser, capsys):
    status, out, err = answer(parser, capsys)
    assert (status, out) == (2, "") and err == parser.format_help()


def test_commands_are_listed_by_who_needs_them(parser):
    listed = re.sub(r" +", " ", parser.format_help()).partition("\n\n")[2]
    assert listed.endswith("your photos:\n score score it\n show show it\n\nmaintainers:\n tables make tables\n")
    assert "positional" not in listed and parser.format_usage().endswith("COMMAND ...\n")


def test_help_of_a_command_shows_every_default_once_and_an_example(parser, capsys):
    status, out, _ = answer(parser, capsys, "score", "--help")
    assert status == 0 and "\nScore it.\n" in out
    for text in ("passes (default 0)\n", "of them (default 0.25)\n", "counts (default: as wrong)\n", "replace it\n"):
        assert text in out
    assert out.endswith("\nexamples:\n  tool score a\n  tool score b\n")
    assert "\nTables of all.\n" in answer(parser, capsys, "tables", "--help")[1]
