"""Training with JAX and optax: fastce.jax and optax's own loss, same start and batches, give the same loss curve.

Run with `python -m fastce.bench.train_jax`. Twice: a small network on scikit-learn's digits, where the loss is the
least of a step, and a linear model of generated rows with as many classes as a vocabulary, where it is most of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from .adapters_jax import LOSSES
from .timing import no_collection

TOLERANCE = 1e-3  # relative, of the losses of two trainings: float32 rounding, amplified by training


class Task(NamedTuple):
    """Rows, their classes, the widths of the layers, and how to train."""

    name: str
    inputs: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]
    widths: tuple[int, ...]
    batch: int
    rate: float


class Run(NamedTuple):
    """The loss of every step, and the median seconds of one."""

    losses: list[float]
    seconds: float


def digits() -> Task:
    """Give the 1,797 images of scikit-learn's digits, for a network with one hidden layer."""
    images, targets = load_digits(return_X_y=True)
    return Task(
        "digits, 10 classes", (images / 16).astype(np.float32), targets.astype(np.int32), (64, 128, 10), 128, 3e-3
    )


def generated(n_classes: int = 8000, n_rows: int = 4096) -> Task:
    """Give rows near the centre of their class."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, 64), dtype=np.float32)
    targets = rng.integers(0, n_classes, n_rows).astype(np.int32)
    inputs = centres[targets] + rng.standard_normal((n_rows, 64), dtype=np.float32) / 2
    return Task(f"generated, {n_classes:,} classes", inputs, targets, (64, n_classes), 1024, 1e-2)


def train(task: Task, loss: Callable[..., jax.Array], steps: int) -> Run:
    """Train with Adam; start and batches are the same for every loss."""
    rng = np.random.default_rng(1)
    weights = [
        jnp.asarray(rng.standard_normal(shape, dtype=np.float32) / shape[0] ** 0.5)
        for shape in zip(task.widths, task.widths[1:], strict=False)
    ]
    optimizer = optax.adam(task.rate)

    def objective(weights: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        *hidden, last = weights
        for layer in hidden:
            x = jax.nn.relu(x @ layer)
        return loss(x @ last, y)

    @jax.jit
    def step(weights: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, grads = jax.value_and_grad(objective)(weights, x, y)
        updates, state = optimizer.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state, value

    state: Any = optimizer.init(weights)
    losses, seconds = [], []
    with no_collection():
        for _ in range(steps):
            rows = rng.integers(0, len(task.inputs), task.batch)
            x, y = jnp.asarray(task.inputs[rows]), jnp.asarray(task.targets[rows])
            start = time.perf_counter()
            weights, state, value = step(weights, state, x, y)
            value.block_until_ready()
            seconds.append(time.perf_counter() - start)
            losses.append(float(value))
    return Run(losses, median(seconds[1:]))  # the first one compiles


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with both, print losses and times, and raise AssertionError if the losses do not agree."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.train_jax", description=main.__doc__)
    parser.add_argument("--steps", type=int, default=300, help="on the digits; a tenth of it on the generated rows")
    steps = parser.parse_args(arguments).steps
    print(f"jax {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].platform}")
    for task, n_steps in ((digits(), steps), (generated(), max(steps // 10, 5))):
        print(f"\n{task.name}, {n_steps} steps of {task.batch} rows")
        runs = {name: train(task, loss, n_steps) for name, loss in LOSSES.items()}
        for name, run in runs.items():
            first, last = run.losses[0], run.losses[-1]
            print(f"  {name:<8} loss {first:.6f} to {last:.6f}, {run.seconds * 1e3:.3g} ms a step")
        fast, other = runs["fastce"], runs["optax"]
        np.testing.assert_allclose(fast.losses, other.losses, rtol=TOLERANCE)
        ratio = other.seconds / fast.seconds
        print(f"  losses agree within {TOLERANCE:g}; a step with optax's takes {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
