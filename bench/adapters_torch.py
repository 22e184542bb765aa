"""`fastce.torch.cross_entropy` beside PyTorch's, eager and compiled: loss and backward pass, and peak memory.

Every gradient is allocated anew in each call, as PyTorch does. What is timed is compared with PyTorch's first, and
everybody of a line is timed in turn, with a function of autograd that computes nothing: below it, no loss that
is written in Python can be. Run with `python -m fastce.bench.adapters_torch`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastce.torch import cross_entropy

from . import memory
from .timing import Race

Loss = Callable[[Tensor, Tensor], Tensor]

# Rows and classes: a call that is all overhead; 1e6 elements; few long rows; 3e7 and more.
SHAPES = ((32, 10), (1024, 1000), (32, 50257), (1024, 32000), (8192, 4000), (32768, 1000))
SECONDS = 4.0  # for each shape
LOSSES: dict[str, Loss] = {
    "fastce": cross_entropy,
    "in place": partial(cross_entropy, inplace=True),
    "PyTorch": torch.nn.functional.cross_entropy,
}
COMPILED, NOTHING = "torch.compile", "nothing"


class Nothing(torch.autograd.Function):
    """No loss at all, with the gradient of one: what autograd takes for any function that is written in Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor) -> Tensor:
        """Give 0."""
        ctx.grad = grad
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        """Give what `forward` was given."""
        return ctx.grad, None


def no_loss(x: Tensor, y: Tensor) -> Tensor:
    """Give 0; the logits' gradient is one of themselves."""
    loss: Tensor = Nothing.apply(x, x.detach())  # type: ignore[no-untyped-call]
    return loss


def step(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """Loss and backward pass; give the gradient."""
    x.grad = None
    loss(x, y).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad


def contenders(n_rows: int, n_classes: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Give the calls, all on the same logits."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, y = torch.randn(n_rows, n_classes).to(dtype).requires_grad_(), torch.randint(n_classes, (n_rows,))
    compiled: Loss = torch.compile(torch.nn.functional.cross_entropy, dynamic=False)
    losses = {name: loss for name, loss in LOSSES.items() if name != "in place"} | {COMPILED: compiled}
    calls: dict[str, Callable[[], Tensor]] = {name: partial(step, loss, x, y) for name, loss in losses.items()}
    wanted = calls["PyTorch"]().float()
    for name, call in calls.items():
        torch.testing.assert_close(call().float(), wanted, rtol=0.02, atol=float(wanted.abs().max()) * 0.02, msg=name)
    return calls | {NOTHING: partial(step, no_loss, x, y)}


def compare(n_rows: int, n_classes: int, dtype: torch.dtype) -> str:
    """Time everybody; give a line of the table."""
    race = Race(contenders(n_rows, n_classes, dtype), SECONDS)
    race.run()
    medians = {name: statistics.median(seconds) for name, seconds in race.seconds.items()}
    ours = medians["fastce"]
    times = " ".join(f"{1e6 * seconds:12,.1f}" for seconds in medians.values())
    return f"{times} {medians['PyTorch'] / ours:10.2f} {medians[COMPILED] / ours:12.2f}"


def growth(name: str, n_rows: int, n_classes: int, dtype: torch.dtype) -> int:
    """Bytes by which this process grows at most in a step, its gradient included, after one that warms it up."""
    x, y = torch.randn(n_rows, n_classes).to(dtype), torch.randint(n_classes, (n_rows,))
    step(LOSSES[name], x[:64].clone().requires_grad_(), y[:64])
    logits = x.clone().requires_grad_()
    before = memory.kilobytes("VmRSS")
    memory.RESET.write_text("5", encoding="ascii")  # the peak is what is there now
    step(LOSSES[name], logits, y)
    return 1024 * (memory.kilobytes("VmHWM") - before)


def peak(name: str, shape: str, dtype: str) -> float:
    """Peak memory of a step beside its logits, as a multiple of these, in a process of its own."""
    module = ["fastce.bench.adapters_torch", "--dtype", dtype, "--shape", shape, "--memory-of", name]
    n_rows, n_classes = _numbers(shape)
    itemsize: int = getattr(torch, dtype).itemsize
    return memory.printed_by(module) / (n_rows * n_classes * itemsize)


def _numbers(shape: str) -> tuple[int, int]:
    n_rows, n_classes = map(int, shape.split("x"))
    return n_rows, n_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of times and ratios, and one of peak memory."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.adapters_torch", description=main.__doc__)
    parser.add_argument("--shape", nargs="+", default=["x".join(map(str, s)) for s in SHAPES], help="as in 1024x1000")
    parser.add_argument("--dtype", default="float32", choices=["float16", "bfloat16", "float32", "float64"])
    parser.add_argument("--memory-of", choices=LOSSES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    dtype: torch.dtype = getattr(torch, options.dtype)
    if options.memory_of:
        print(growth(options.memory_of, *_numbers(options.shape[0]), dtype))
        return
    print(
        f"Loss and backward, {options.dtype}, {torch.get_num_threads()} threads: microseconds, and how many times ours"
    )
    names = " ".join(f"{name:>12}" for name in ("fastce", "PyTorch", COMPILED, NOTHING))
    print(f"{'rows x classes':>16} {names} {'/ PyTorch':>10} {'/ compiled':>12}")
    for shape in options.shape:
        print(f"{shape:>16} {compare(*_numbers(shape), dtype)}", flush=True)
    if not memory.available():
        print("Peak memory: only Linux tells it.")
        return
    print("\nPeak memory of the step beside its logits, gradient included, as a multiple of them")
    print(f"{'rows x classes':>16} " + " ".join(f"{name:>12}" for name in LOSSES))
    for shape in options.shape:
        n_rows, n_classes = _numbers(shape)
        if n_rows * n_classes >= 1 << 24:  # below, Python's own memory is what is seen
            row = " ".join(f"{peak(name, shape, options.dtype):12.3f}" for name in LOSSES)
            print(f"{shape:>16} {row}", flush=True)


if __name__ == "__main__":
    main()
