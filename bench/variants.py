"""Calls of fastce that are timed against each other: threads, a new gradient or a given one, options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

import fastce

from .cases import PROVIDERS, Case
from .check import EXACT
from .contenders import Array, Contender, Problem
from .run import problem_of
from .timing import Race

Calls = dict[str, Callable[[], object]]
LOSS_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-5, "float16": 1e-5}  # relative, of a call with options

# Arguments that differ from the plain call, by what is shown of them. Their values do not matter to the time, but for
# the share of rows ignored.
OPTIONS: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "plain": lambda p: {},
    "label smoothing": lambda p: {"label_smoothing": 0.1},
    "class weights": lambda p: {"weight": np.linspace(0.5, 2, p.logits.shape[1], dtype=np.float32)},
    "z-loss": lambda p: {"z_loss": 1e-4},
    "a fifth ignored": lambda p: {"targets": np.where(np.arange(len(p.targets)) % 5 == 4, -100, p.targets)},
    "all ignored": lambda p: {"targets": np.full_like(p.targets, -100), "empty": "zero"},
    "softcap": lambda p: {"softcap": 30.0},
    "probability targets": lambda p: {"targets": fastce.softmax(p.logits)},
}


def race(calls: Calls, budget: float) -> Race:
    """Run a race of them."""
    run = Race(calls, budget)
    run.run()
    return run


def thread_counts() -> list[int]:
    """One, two, four and so on, and all."""
    most = numba.get_num_threads()
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def on_threads(call: Callable[[], object], n_threads: int) -> Callable[[], object]:
    """Give the call on that many threads."""

    def limited() -> object:
        most = numba.get_num_threads()
        numba.set_num_threads(n_threads)
        try:
            return call()
        finally:
            numba.set_num_threads(most)

    return limited


def threads(case: Case) -> Calls:
    """Give the same call on several numbers of threads, each checked."""
    problem, oracle = problem_of(case.dtype, case.n_rows, case.n_classes)
    contender = PROVIDERS["fastce"].builders[case.function](problem)
    calls = {n_threads: on_threads(contender.call, n_threads) for n_threads in thread_counts()}
    for n_threads, call in calls.items():
        problem.out.fill(np.nan)
        name = f"{case} on {n_threads} threads"
        oracle.check(name, case.function, Contender(call, contender.read), EXACT[case.dtype])
    return {f"{n_threads} thread{'s' * (n_threads > 1)}": call for n_threads, call in calls.items()}


def allocation(case: Case) -> Calls:
    """Give the call with a gradient array given, with none, and in place, each checked."""
    problem, oracle = problem_of(case.dtype, case.n_rows, case.n_classes)

    def read(result: Any) -> tuple[float, Array]:
        return float(result.loss), result.grad

    contenders = {
        "given": PROVIDERS["fastce"].builders["gradient"](problem),
        "new": Contender(lambda: fastce.cross_entropy_with_grad(problem.logits, problem.targets), read),
        "in place": PROVIDERS["fastce-in-place"].builders["gradient"](problem),
    }
    for name, contender in contenders.items():
        oracle.check(f"gradient {name}, {case}", "gradient", contender, EXACT[case.dtype])
    return {name: contender.call for name, contender in contenders.items()}


def options(case: Case) -> Calls:
    """Give the call with each option, its loss checked against the reference."""
    problem, _ = problem_of(case.dtype, case.n_rows, case.n_classes)
    exact = problem.logits.astype(np.float64)

    def call(arguments: dict[str, Any]) -> Callable[[], Any]:
        return lambda: fastce.cross_entropy_with_grad(problem.logits, **arguments, grad_out=problem.out)

    calls: Calls = {}
    for name, choose in OPTIONS.items():
        arguments = {"targets": problem.targets, **choose(problem)}
        want = float(fastce.cross_entropy(exact, **arguments, backend="reference"))
        calls[name] = call(arguments)
        got = float(call(arguments)().loss)
        if not abs(got - want) <= LOSS_TOLERANCE[case.dtype] * abs(want):
            raise AssertionError(f"{name}, {case}: loss {got!r}, float64 gives {want!r}")
    return calls
