"""fastce.jax beside optax's loss: compiled loss, and loss with gradient, in one run.

Run with `python -m fastce.bench.adapters_jax`. Both are checked against float64 before they are timed. "The kernel" is
`fastce.cross_entropy_with_grad` from Python, its gradient preallocated: what JAX's way there costs is the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fastce
import fastce.jax

from .timing import Race

SHAPES = ((32, 10), (2048, 1000), (32768, 1000), (1024, 32000))
TOLERANCE = {"loss": 1e-5, "grad": 1e-5}  # relative, the gradient's of its largest element: float32, as optax has it
BUDGET = 2.0  # seconds for each line


def optax_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Give the mean loss as a user of optax writes it."""
    mean: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    return mean


LOSSES: dict[str, Callable[..., jax.Array]] = {"fastce": fastce.jax.cross_entropy, "optax": optax_loss}


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, time, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.adapters_jax", description=main.__doc__)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for each line")
    budget = parser.parse_args(arguments).budget
    print(f"jax {jax.__version__}, optax {optax.__version__}; ms, medians of interleaved rounds; ratios of medians\n")
    print("| rows x classes | loss | optax | ratio | loss and gradient | optax | ratio | the kernel |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for shape in SHAPES:
        print(line(shape, budget), flush=True)


def line(shape: tuple[int, int], budget: float) -> str:
    """Check and time one shape."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    y = rng.integers(0, shape[1], shape[0])
    logits, targets = jnp.asarray(x), jnp.asarray(y)
    grad = np.empty_like(x)
    calls: dict[str, Callable[[], Any]] = {"kernel": lambda: fastce.cross_entropy_with_grad(x, y, grad_out=grad)}
    for name, loss in LOSSES.items():
        calls[f"{name} loss"] = _call(jax.jit(loss), logits, targets)
        calls[f"{name} grad"] = _call(jax.jit(jax.value_and_grad(loss)), logits, targets)
        _check(calls[f"{name} grad"](), x, y)
    race = Race(calls, budget)
    race.run()
    ms = {name: median(seconds) * 1e3 for name, seconds in race.seconds.items()}
    columns = [f"{shape[0]:,} x {shape[1]:,}"]
    for what in ("loss", "grad"):
        fast, other = ms[f"fastce {what}"], ms[f"optax {what}"]
        columns += [f"{fast:.3g}", f"{other:.3g}", f"{other / fast:.2f}"]
    return "| " + " | ".join([*columns, f"{ms['kernel']:.3g}"]) + " |"


def _call(function: Any, *arrays: jax.Array) -> Callable[[], Any]:
    wait: Any = jax.block_until_ready  # (without types)
    return lambda: wait(function(*arrays))


def _check(found: tuple[jax.Array, jax.Array], logits: Any, targets: Any) -> None:
    exact: Any = fastce.cross_entropy_with_grad(logits.astype(np.float64), targets)
    np.testing.assert_allclose(found[0], exact.loss, rtol=TOLERANCE["loss"])
    np.testing.assert_allclose(found[1], exact.grad, rtol=0, atol=TOLERANCE["grad"] * np.abs(exact.grad).max())


if __name__ == "__main__":
    main()
