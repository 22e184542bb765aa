"""The command line: `python -m fastce info`, `warmup`, `check` and `bench`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence

DTYPES = ("float16", "bfloat16", "float32", "float64")

# Exit statuses. A wrong result is 1, a wrong command line 2 (as argparse has it); the others as shells count signals.
OK, WRONG, USAGE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    try:
        status: int = args.command(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nfastce: interrupted", file=sys.stderr)
        # CPython remembers an interrupt that came while it ran a string, as Numba has it do, until it runs another; at
        # its end, in place of returning this status, it would send itself the signal.
        exec("")
        return INTERRUPTED
    except BrokenPipeError:  # `python -m fastce info | head -1`
        # What is still buffered would raise again when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return status


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastce", description="Tools around the library fastce.")
    commands = parser.add_subparsers(required=True, metavar="{info,warmup,check,bench}")

    info = commands.add_parser("info", help="print versions, processor, threads, cache folder and optional parts")
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(command=_info)

    warmup = commands.add_parser("warmup", help="compile kernels now and keep them on disk for later processes")
    warmup.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], help="types of the logits (default: float32)"
    )
    warmup.add_argument("--what", nargs="+", metavar="FUNCTION", help="functions to compile for (default: all)")
    warmup.set_defaults(command=_warmup)

    check = commands.add_parser("check", help="prove this installation right against the NumPy reference")
    check.add_argument("--quick", action="store_true", help="fewer types and shapes")
    check.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    check.set_defaults(command=_check)

    bench = commands.add_parser("bench", help="time fastce beside other libraries on this machine")
    if argv[:1] == ["bench"]:  # its options are read from its tables, which the other commands do without
        from .bench import command

        command.add_options(bench)
    bench.set_defaults(command=_bench, arguments=argv[1:])
    return parser


def _info(args: argparse.Namespace) -> int:
    from . import sysinfo

    sections = sysinfo.collect()
    if args.json:
        print(json.dumps(sections, indent=2))
        return OK
    for title, section in sections.items():
        print(title)
        for name, value in section.items():
            shown = ", ".join(value) if isinstance(value, list) else "-" if value is None else value
            print(f"  {name:<18} {shown}")
    if sections["optional"]["tbb"] and "tbb" not in sections["threads"]["available"]:
        print(
            "note: tbb is installed, but the system's loader does not find its library; on Linux, set LD_LIBRARY_PATH\n"
            f"      to {os.path.join(sys.prefix, 'lib')} before Python starts to let Numba use it"
        )
    return OK


def _warmup(args: argparse.Namespace) -> int:
    from .warmup import most_processes, warmup

    bar = _ProgressBar()
    try:
        # (elsewhere even for one type: compiling, Ctrl-C waits for seconds; another process can be ended at once)
        seconds = warmup(args.dtype, functions=args.what, progress=bar, processes=most_processes())
    except (ImportError, TypeError, ValueError) as error:  # an unknown function, a type whose package is missing
        bar.close()
        print(f"python -m fastce warmup: error: {error}", file=sys.stderr)
        return USAGE
    finally:
        bar.close()
    print(f"compiled in {seconds:.1f} s")
    return OK


def _check(args: argparse.Namespace) -> int:
    from . import places, selfcheck

    if args.device == "cuda" and (missing := places.missing_gpu()):
        print(f"python -m fastce check: error: --device cuda: {missing}", file=sys.stderr)
        return USAGE
    with contextlib.closing(_ProgressBar()) as bar:
        progress = bar if sys.stderr.isatty() else None  # in a log, the outcome alone
        return OK if selfcheck.run(quick=args.quick, device=args.device, progress=progress) else WRONG


def _bench(args: argparse.Namespace) -> int:
    from .bench import command

    bar = _ProgressBar()
    try:
        return command.main(args, args.arguments, progress=bar, close=bar.close)
    finally:
        bar.close()


class _ProgressBar:
    """Progress on stderr: one line drawn over and over on a terminal, one line a step elsewhere."""

    WIDTH = 30

    def __init__(self) -> None:
        self.drawn = 0  # characters of the line now on the terminal

    def __call__(self, done: int, total: int, label: str) -> None:
        if not sys.stderr.isatty():
            print(f"[{done}/{total}] {label}", file=sys.stderr, flush=True)
            return
        filled = self.WIDTH * done // max(total, 1)
        line = f"[{'#' * filled}{'.' * (self.WIDTH - filled)}] {done}/{total} {label}"
        line = line[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be drawn over
        print("\r" + line.ljust(self.drawn), end="", file=sys.stderr, flush=True)
        self.drawn = len(line)

    def close(self) -> None:
        """Leave the terminal's line empty for what is printed next."""
        if self.drawn:
            print("\r" + " " * self.drawn + "\r", end="", file=sys.stderr, flush=True)
            self.drawn = 0


if __name__ == "__main__":
    sys.exit(main())
