"""Command line of the benchmark: `python -m bench --quick`, `python -m bench --full --json bench/results/NAME.json`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import report
from .cases import FUNCTIONS, PROVIDERS, TYPES, installed, select
from .run import Record, prepare, record, results


def main(arguments: Sequence[str] | None = None) -> None:
    """Check and time every provider in the chosen cells, print the table, save it where asked."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    cases = select(quick=not options.full, functions=options.function, dtypes=options.dtype)
    providers, left_out = installed(options.providers)
    for name, reason in left_out.items():
        print(f"Left out: {PROVIDERS[name].title} ({reason}).")
    records: list[Record] = []
    start = time.perf_counter()
    for i, case in enumerate(cases, 1):
        print(f"[{i:>{len(str(len(cases)))}}/{len(cases)}] {case!s:<52}", end="", flush=True)
        race = prepare(case, providers, budget=2.0 if options.full else 0.3)
        race.run()
        records.append(record(case, race))
        times = records[-1]["times"]
        print(", ".join(f"{PROVIDERS[name].title} {report.duration(times[name]['median'])}" for name in times))
    found = results(records, providers, left_out, shlex.join(["python", "-m", "bench", *arguments]))
    print(f"\n{report.to_text(found)}\n\nTook {time.perf_counter() - start:.0f} s.")
    if options.json:
        report.save(found, options.json)
    if options.readme:
        report.write_readme(found, options.readme, options.json)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="cells of every regime, under a minute (the default)")
    size.add_argument("--full", action="store_true", help="every cell up to 1 GiB of logits")
    for option, known, text in (
        ("--dtype", TYPES, "types of the logits"),
        ("--function", FUNCTIONS, "what is computed"),
        ("--providers", PROVIDERS, "who competes"),
    ):
        parser.add_argument(option, nargs="+", choices=list(known), default=list(known), help=f"{text} (default: all)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="save the results")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="PATH",
        nargs="?",
        const=Path("README.md"),
        help="write the table into this file (README.md) and the picture beside the JSON",
    )
    options = parser.parse_args(arguments)
    if options.readme and not options.json:
        parser.error("--readme needs --json: the tables in the README come from results that are kept")
    return options


if __name__ == "__main__":
    main()
