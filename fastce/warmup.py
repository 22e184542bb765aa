"""Compile kernels ahead of time."""

from __future__ import annotations

import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import api, dispatch
from .kernels.task import Array


def _plain_and_with_options(function: Callable[..., object]) -> Callable[[Array, Array], object]:
    return lambda x, y: (function(x, y), function(x, y, label_smoothing=0.1), function(x, y, reduction="none"))


DTYPES = ("float16", "bfloat16", "float32", "float64")
FUNCTIONS: dict[str, Callable[[Array, Array], object]] = {
    "cross_entropy": _plain_and_with_options(api.cross_entropy),
    "cross_entropy_with_grad": _plain_and_with_options(api.cross_entropy_with_grad),
    "cross_entropy_backward": lambda x, y: api.cross_entropy_backward(x, y, np.zeros(len(x))),
    "logsumexp": lambda x, y: api.logsumexp(x),
    "softmax": lambda x, y: api.softmax(x),
    "log_softmax": lambda x, y: api.log_softmax(x),
    "nll_loss": api.nll_loss,
}
# Rows and classes, of each regime of the kernels: for one thread, and for all of them.
SHAPES = {
    "few classes": (2, 2),
    "some classes": (8, 32),
    "many classes": (1024, 128),
    "one row": (1, 1 << 17),
}


def warmup(
    dtypes: str | Sequence[str] = ("float32",),
    *,
    functions: str | Sequence[str] | None = None,
    progress: Callable[[int, int, str], object] | None = None,
    processes: int | None = None,
) -> float:
    """Compile the kernels for logits of these types, and keep them on disk for later processes.

    Without it, the first call with logits of a type takes the seconds that compiling takes.

    Parameters
    ----------
    dtypes : str or sequence of str
        Any of "float16", "bfloat16" (needs the package ml_dtypes), "float32" and "float64".
    functions : str or sequence of str, optional
        Names of the functions that will be called; all of them if not given. They share most of what is compiled.
    progress : callable, optional
        Called as `progress(done, total, label)` before each step, and once at the end.
    processes : int, optional
        How many other processes compile at once, a type each; 0 compiles here. By default as many as there are cores
        for several types, and 0 for one.

    Returns
    -------
    float
        The seconds it took.

    Raises
    ------
    ImportError
        "bfloat16" without ml_dtypes.
    ValueError
        A type or function that is not there.

    Notes
    -----
    Several types are compiled at once, each in a process of its own, unless they are on disk already.

    Numba keeps compiled kernels in a folder beside the package or, where that cannot be written, in one of the user's;
    the environment variable NUMBA_CACHE_DIR names another. `python -m fastce info` tells which it is.

    Examples
    --------
    >>> import fastce
    >>> seconds = fastce.warmup("float64", functions="logsumexp")
    >>> seconds < 600
    True
    """
    types = _names("dtypes", dtypes, DTYPES)
    names = _names("functions", tuple(FUNCTIONS) if functions is None else functions, tuple(FUNCTIONS))
    arrays = {name: _dtype(name) for name in types}
    start = time.perf_counter()
    steps = [(dtype, name, shape) for dtype in types for name in names for shape in SHAPES]
    done, total = 0, len(steps)

    def begin(label: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, label)
        done += 1

    def call(dtype: str, name: str, shape: str) -> None:
        n_rows, n_classes = SHAPES[shape]
        FUNCTIONS[name](np.zeros((n_rows, n_classes), arrays[dtype]), np.zeros(n_rows, np.int64))

    if processes is None:
        processes = most_processes() if len(types) > 1 else 0
    if processes > 0:
        missing = [dtype for dtype in types if not _on_disk(call, [step for step in steps if step[0] == dtype])]
        total += len(missing) * len(steps) // len(types)
        _compile_in_processes(missing, names, processes, begin)
        done = total - len(steps)  # also where a process failed: what it has not compiled is compiled here
    for dtype, name, shape in steps:
        begin(f"{name} of {dtype}, {shape}")
        call(dtype, name, shape)
    begin("done")
    return time.perf_counter() - start


def _on_disk(call: Callable[[str, str, str], None], steps: Sequence[tuple[str, str, str]]) -> bool:
    """Whether nothing need be compiled for these steps; if not, they do not compile it."""
    kernels = dispatch.cpu()
    with kernels.only_from_disk():
        try:
            for step in steps:
                call(*step)
        except kernels.NotOnDisk:
            return False
    return True


_PROCESS = """
import json, sys
sys.path[:], dtype, functions = json.loads(sys.argv[1])
import fastce
fastce.warmup(dtype, functions=functions, progress=lambda done, total, label: print(label, flush=True))
"""


def _compile_in_processes(
    types: Sequence[str], names: Sequence[str], n_processes: int, begin: Callable[[str], object]
) -> None:
    """Let other processes compile, a type each, and keep it on disk; `begin` is told of each step."""
    waiting, running = list(types), set[subprocess.Popen[str]]()
    said: queue.SimpleQueue[tuple[subprocess.Popen[str], str]] = queue.SimpleQueue()  # "" at the end

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                said.put((process, line.strip()))
        said.put((process, ""))

    try:
        while waiting or running:
            while waiting and len(running) < n_processes:
                arguments = json.dumps([sys.path, waiting.pop(0), names])
                command = [sys.executable, "-c", _PROCESS, arguments]
                try:
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                except OSError:  # no Python of that name, or no room for one more process
                    waiting.clear()
                    break
                running.add(process)
                threading.Thread(target=listen, args=[process], daemon=True).start()
            if not running:
                break
            process, label = said.get()
            if label not in ("", "done"):
                begin(label)
            elif not label:
                process.wait()
                running.remove(process)
    finally:
        for process in running:
            process.kill()
            process.wait()


def most_processes() -> int:
    """As many as there are cores; 0 where this program cannot be sure to start another Python."""
    if not sys.executable or getattr(sys, "frozen", False):
        return 0
    if hasattr(os, "sched_getaffinity"):  # Linux, where a container may leave less than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _names(argument: str, given: str | Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument} must be among {', '.join(known)}; not {name!r}")
    return names


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        name = importlib.import_module("ml_dtypes").bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
