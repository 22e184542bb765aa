"""Command line of the benchmark, `python -m fastce bench`: options, the run, what is printed and saved."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numba

from . import compare, memory, page, report
from .cases import FUNCTIONS, OURS, PROVIDERS, TYPES, YARDSTICKS, installed, installed_types
from .measurements import MEASUREMENTS, Choice, steps
from .run import Record, Results, machine, results

PEERS = [name for name in PROVIDERS if name not in OURS and name not in YARDSTICKS]
OK, WRONG, USAGE, INTERRUPTED = 0, 1, 2, 130
REST = "all that was to come"  # left out of a run that was interrupted


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description = (
        "Time fastce beside other libraries and say how exact they are. Each contender's result is checked before it "
        "is timed, and all of a cell are timed in turn."
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="cells of every regime, about a minute (the default)")
    size.add_argument("--full", action="store_true", help="every cell up to 1 GiB of float32; takes hours")
    for option, known, text in (
        ("--measure", MEASUREMENTS, "what to measure"),
        ("--function", FUNCTIONS, "what is computed"),
        ("--dtype", TYPES, "types of the logits"),
    ):
        parser.add_argument(
            option, nargs="+", choices=list(known), metavar="NAME", help=f"{text}: {', '.join(known)} (default: all)"
        )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        metavar="NAME",
        help=f"who competes: {', '.join(PEERS)} (default: all that are installed)",
    )
    for option, least, text in (("--rows", 1, "numbers of rows"), ("--classes", 2, "numbers of classes")):
        parser.add_argument(
            option,
            nargs="+",
            type=_at_least(least),
            metavar="N",
            default=[],
            help=f"{text}, in place of the built-in cells",
        )
    parser.add_argument(
        "--limit",
        type=_at_least(1),
        metavar="MB",
        default=1 << 20,
        help="leave out cells whose logits are larger than this",
    )
    parser.add_argument("--threads", type=_at_least(1), metavar="N", help="threads of each contender (default: all)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save the results")
    parser.add_argument("--html", type=Path, metavar="PATH", help="write a report with plots, one page of HTML")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="of two saved runs, say what became slower beyond the noise; exit status 1 if something did",
    )


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    return number


def main(
    args: argparse.Namespace,
    arguments: Sequence[str],
    *,
    progress: Callable[[int, int, str], object],
    close: Callable[[], object],
) -> int:
    """Do what the command line asks for; give the exit status. `close` clears the terminal's line of progress."""
    try:
        if args.compare:
            return _compare(*args.compare)
        for path in (args.json, args.html):  # now, not after the run
            if path:
                _try_to_write(path)
        if args.threads:
            _use_threads(args.threads)
    except (OSError, ValueError) as error:
        print(f"python -m fastce bench: error: {error}", file=sys.stderr)
        return USAGE
    start = time.perf_counter()
    try:
        found = measure(args, arguments, progress)
    except AssertionError as error:  # a contender whose result is wrong
        close()
        print(f"python -m fastce bench: wrong result: {error}", file=sys.stderr)
        return WRONG
    if args.json:
        report.save(found, args.json)
    if args.html:
        page.save(found, args.html)
    close()
    print(f"{report.to_text(found)}\n\nTook {time.perf_counter() - start:.0f} s.")
    return INTERRUPTED if REST in found["left_out"] else OK


def measure(args: argparse.Namespace, arguments: Sequence[str], progress: Callable[[int, int, str], object]) -> Results:
    """Run every step of the choice; of a run that is interrupted, hours of it perhaps, give what there is."""
    choice, left_out = choose(args)
    todo = []
    for name in args.measure or MEASUREMENTS:
        if name == "memory" and not memory.available():
            left_out["peak memory"] = "only Linux tells it"
        else:
            todo += steps(name, choice)
    records: list[Record] = []
    done = 0
    try:
        for done, step in enumerate(todo):
            progress(done, len(todo), step.label)
            records += step.run()
    except KeyboardInterrupt:
        if not records:
            raise
        left_out[REST] = f"interrupted after {done} of {len(todo)} measurements"
    left_out |= choice.wrong
    packages = {package for name in choice.providers for package in PROVIDERS[name].needs}
    command = shlex.join(["python", "-m", "fastce", "bench", *arguments])
    return results(records, packages, left_out, command, machine())


def choose(args: argparse.Namespace) -> tuple[Choice, dict[str, str]]:
    """Say what is measured, and what is left out for which reason."""
    peers = PEERS if args.peers is None else args.peers
    providers, left_out = installed([name for name in PROVIDERS if name in peers or name not in PEERS])
    if not args.full and args.peers is None:
        for name in [name for name in providers if PROVIDERS[name].slow_start]:
            providers.remove(name)
            left_out[name] = f"compiles for seconds at each shape; --full or --peers {name} times it"
    dtypes, no_types = installed_types(args.dtype or TYPES)
    choice = Choice(
        quick=not args.full,
        providers=providers,
        functions=args.function or list(FUNCTIONS),
        dtypes=dtypes,
        rows=args.rows,
        classes=args.classes,
        limit=args.limit * 10**6,
        wrong={},
    )
    return choice, {**left_out, **no_types}


def _try_to_write(path: Path) -> None:
    """Raise OSError if the file cannot be written; leave nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    path.touch()
    if not there:
        path.unlink()


def _use_threads(number: int) -> None:
    """Let everybody have so many threads. JAX counts the cores that it may use: let it see as many."""
    numba.set_num_threads(number)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def _compare(old: Path, new: Path) -> int:
    try:
        found = compare.compare(report.load(old), report.load(new))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{old} and {new} must be files that --json saved ({error!r})") from error
    print(found.text)
    return WRONG if found.slower else OK
