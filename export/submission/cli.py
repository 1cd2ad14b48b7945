"""edge-submit: pack what a contest asks for, and try it before the organisers do. Standard output is data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.commands.arguments import add_model, add_profile
from edge.arguments import ArgumentParser, got, positive
from edge.exit import DONE, GATE, STATUSES, run, say, terminations_as_interrupts
from edge.output_files import OutputPath

from .sources import MACHINES

PROGRAM = "edge-submit"
_ENTRANTS = "for entrants of the contest"
_EPILOG = f"""\
examples:
  edge-submit pack -m model.onnx --checkpoint RUN -o submission.zip
  edge-submit check submission.zip

edge-submit COMMAND --help has the flags of a command, and examples.

pack needs a checkout; check runs anywhere, and runs the submission's own code: check what you trust.

{STATUSES}"""


def build_parser() -> ArgumentParser:
    """The parser of edge-submit."""
    parser = ArgumentParser(prog=PROGRAM, description="Pack a submission, and try it.", epilog=_EPILOG)
    command = parser.add_commands()

    text = "write code, model, execution files and README into a folder or zip"
    description = "Write what a contest asks for into one folder or zip. Exit status 6: it breaks a rule of it."
    example = """\
edge-submit pack --team "Our team" --wheels aarch64,x86_64 -o submission.zip
edge-submit pack -m model.onnx --checkpoint RUN -o submission.zip"""
    pack = command("pack", text, description=description, example=example, group=_ENTRANTS)
    add = pack.add_argument
    add_model(pack)
    text = "the model's run, or its weights as .safetensors (default: the bundled model's)"
    add("--checkpoint", type=Path, metavar="RUN", help=text)
    add("-o", "--output", type=OutputPath, required=True, metavar="FOLDER|ZIP", help="folder, or file named .zip")
    add("--team", type=_team, default="unnamed team", metavar="NAME", help="the team's name, for the README")
    text = "pack wheels for x86_64, aarch64 or x86_64,aarch64 (default: none)"
    add("--wheels", type=_machines, default=(), metavar="LIST", help=text)
    add("--force", action="store_true", help="replace a submission that is there")

    text = "run a submission without a network, and hold it against every rule"
    description = "Run a submission without a network, and hold it against every rule. Exit status 6: it breaks one."
    example = """\
edge-submit check submission.zip
edge-submit check submission.zip -o report.json --logs logs"""
    check = command("check", text, description=description, example=example, group=_ENTRANTS)
    add = check.add_argument
    add("source", type=Path, metavar="FOLDER|ZIP", help="a submission")
    add("--timeout", type=positive, default=600, metavar="SECONDS", help="the longest that one of its scripts may run")
    add("-o", "--output", type=OutputPath, metavar="FILE", help="write the report here, as JSON")
    add("--logs", type=OutputPath, metavar="FOLDER", help="keep the execution files' logs here")
    add("--force", action="store_true", help="replace FILE")

    text = "what run_accuracy.sh runs: predictions of a data set, and their score"
    example = "edge-submit accuracy DATA -m model.onnx -o results"
    accuracy = command("accuracy", text, example=example, group="for the scripts in a submission")
    add = accuracy.add_argument
    add("data", type=Path, metavar="DATA", help="DATA/<group>/<class>/; without labels DATA/<group>/, or a folder")
    add("-m", "--model", type=Path, required=True, metavar="FILE", help="model, .onnx")
    add("-o", "--output", type=OutputPath, required=True, metavar="FOLDER", help="folder for both, replaced if there")
    add_profile(accuracy)
    add("--reference", default="G10", metavar="GROUP", help="group to compare against")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs edge-submit; returns its exit status."""
    arguments = build_parser().parse_args(argv)

    def work() -> int:
        with terminations_as_interrupts():
            return {"pack": _pack, "check": _check, "accuracy": _accuracy}[arguments.command](arguments)

    return run(PROGRAM, work, arguments)


def _pack(arguments: argparse.Namespace) -> int:
    from edge.classifier import DEFAULT_MODEL

    from . import pack

    def tell(line: str) -> None:
        if not arguments.quiet:
            say(PROGRAM, line)

    verdicts = pack.pack(
        arguments.output, model=arguments.model or DEFAULT_MODEL, checkpoint=arguments.checkpoint, team=arguments.team,
        machines=arguments.wheels, force=arguments.force, tell=tell,
    )
    for verdict in verdicts:
        for file, what in verdict.findings:
            say(PROGRAM, f"{verdict.rule.id} {file}: {what}; to mend it: {verdict.rule.fix}")
    tell(f"wrote {arguments.output}; next: edge-submit check {arguments.output}")
    return GATE if any(verdict.findings for verdict in verdicts) else DONE


def _check(arguments: argparse.Namespace) -> int:
    import json

    from edge.output_files import check_output, protect, refuse_folder, write_output

    from . import check

    protect([str(path) for path in arguments.source.rglob("*")])
    if arguments.output is not None:
        check_output(arguments.output, force=arguments.force)
    if arguments.logs is not None:
        refuse_folder(arguments.logs)
        arguments.logs.mkdir(parents=True, exist_ok=True)

    def heard(verdict: check.Verdict) -> None:
        for line in check.lines(verdict):
            _print(line)

    logs = None if arguments.logs is None else arguments.logs.resolve()
    report = check.check(arguments.source, heard, logs=logs, timeout_s=arguments.timeout)
    _print(f"network: {report['network']}")
    counts = {state: sum(rule["state"] == state for rule in report["rules"]) for state in ("ok", "FAILED", "skipped")}
    _print(f"{report['contest']}: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    if arguments.output is not None:
        write_output(arguments.output, json.dumps(report, indent=1) + "\n")  # ASCII: names may be no Unicode
    return DONE if report["passed"] else GATE


def _accuracy(arguments: argparse.Namespace) -> int:
    from . import accuracy

    return accuracy.run(
        arguments.data, arguments.model, arguments.output,
        profile=arguments.profile, reference=arguments.reference, tell=print,
    )


def _print(line: str) -> None:
    """A line on standard output, whatever of it its encoding has not."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _team(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > 100:
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected a name of one line, up to 100 characters")
    return text.strip()


def _machines(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if not set(names) <= set(MACHINES) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"got {got(text)}, expected {', '.join(MACHINES)}, or one of them")
    return tuple(sorted(names))
