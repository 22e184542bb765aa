"""Softmax regression on scikit-learn's digits: fastce, the NumPy baseline and scikit-learn itself must agree.

Twice, on the same split of the 1,797 images of 64 pixels in 10 classes, in plain NumPy loops:

- minibatches: gradient descent in float32 with the same batches and start, once with fastce (the gradient overwrites
  the logits) and once with the baseline; the losses of each epoch and the test accuracies agree;
- all images: the objective of `LogisticRegression`, mean loss and L2, minimised in float64 until it agrees with the
  minimum that scikit-learn's solver finds, and so do the accuracies.

Run with `python -m fastce.bench.train_digits`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import fastce

from . import baseline

Array = NDArray[Any]
Step = Callable[[Array, NDArray[np.int64]], float]  # overwrite logits with their gradient, give the mean loss

EPOCHS, BATCH, RATE = 60, 128, 0.5
STEPS = 600  # over all images; after 500 the objective stands still to its last digit
C = 1.0  # of LogisticRegression: inverse strength of the L2 term
LOSS_TOLERANCE = 1e-5  # relative, float32 losses of fastce and the baseline in every epoch
OBJECTIVE_TOLERANCE = 1e-7  # relative, float64 objective against LogisticRegression's
ACCURACY_TOLERANCE = 0.003  # one test image: rounding may tip one that stands between two digits


class Digits(NamedTuple):
    """Images, one row each, and their digits; a fixed split."""

    train: Array
    train_targets: NDArray[np.int64]
    test: Array
    test_targets: NDArray[np.int64]


class Run(NamedTuple):
    """What a training left behind: loss of each epoch, accuracy on the test images, seconds, of them in the loss."""

    losses: list[float]
    accuracy: float
    seconds: float
    loss_seconds: float


def fastce_step(logits: Array, targets: NDArray[np.int64]) -> float:
    """One call, in place."""
    return float(fastce.cross_entropy_with_grad(logits, targets, grad_out=logits).loss)


def numpy_step(logits: Array, targets: NDArray[np.int64]) -> float:
    """The baseline, in place."""
    return float(baseline.loss_and_grad(logits, targets, logits)[0])


def load(dtype: type[np.floating[Any]]) -> Digits:
    """A quarter of the images, drawn with a fixed seed, is for the test."""
    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    n_test = len(images) // 4
    images = (images[order] - images[order[n_test:]].mean(axis=0)) / 16  # centred: far fewer steps to the minimum
    images, targets = images.astype(dtype), targets[order].astype(np.int64)
    return Digits(images[n_test:], targets[n_test:], images[:n_test], targets[:n_test])


def accuracy(digits: Digits, weights: Array, bias: Array) -> float:
    """Share of the test images classified right."""
    return float(((digits.test @ weights + bias).argmax(axis=1) == digits.test_targets).mean())


def train(digits: Digits, step: Step, epochs: int = EPOCHS) -> Run:
    """Train with minibatches, the same for every `step`."""
    rng = np.random.default_rng(1)
    images, targets = digits.train, digits.train_targets
    weights, bias = np.zeros((64, 10), images.dtype), np.zeros(10, images.dtype)
    losses, loss_seconds, start = [], 0.0, time.perf_counter()
    for _ in range(epochs):
        total = 0.0
        for batch in np.array_split(rng.permutation(len(images)), len(images) // BATCH):
            x, y = images[batch], targets[batch]
            logits = x @ weights + bias
            before = time.perf_counter()
            total += len(batch) * step(logits, y)  # logits now hold the gradient
            loss_seconds += time.perf_counter() - before
            weights -= RATE * (x.T @ logits)
            bias -= RATE * logits.sum(axis=0)
        losses.append(total / len(images))
    seconds = time.perf_counter() - start
    return Run(losses, accuracy(digits, weights, bias), seconds, loss_seconds)


def minimise(digits: Digits, step: Step, steps: int = STEPS) -> Run:
    """Minimise `mean loss + |weights|**2 / (2 * C * n_images)` over all images: Nesterov's gradient descent."""
    images, targets = digits.train, digits.train_targets
    ridge = 1 / (C * len(images))
    with_bias = np.hstack([images, np.ones((len(images), 1), images.dtype)])
    penalty = np.full((65, 1), ridge)
    penalty[-1] = 0  # the bias is not penalised
    steepest = np.linalg.eigvalsh(with_bias.T @ with_bias / len(images))[-1] / 2 + ridge  # bound of the curvature
    root = np.sqrt(ridge / steepest)
    momentum = (1 - root) / (1 + root)
    weights = ahead = np.zeros((65, 10), images.dtype)
    losses, loss_seconds, start = [], 0.0, time.perf_counter()
    for _ in range(steps):
        logits = with_bias @ ahead
        before = time.perf_counter()
        loss = step(logits, targets)  # logits now hold the gradient
        loss_seconds += time.perf_counter() - before
        losses.append(loss + float((penalty * ahead**2).sum()) / 2)
        last = weights
        weights = ahead - (with_bias.T @ logits + penalty * ahead) / steepest
        ahead = weights + momentum * (weights - last)
    seconds = time.perf_counter() - start
    return Run(losses, accuracy(digits, weights[:-1], weights[-1]), seconds, loss_seconds)


def scikit_learn(digits: Digits) -> Run:
    """Fit `LogisticRegression`, and its objective at the minimum."""
    images, targets = digits.train, digits.train_targets
    start = time.perf_counter()
    model = LogisticRegression(C=C, tol=1e-7, max_iter=10_000).fit(images, targets)
    seconds = time.perf_counter() - start
    work = np.empty((len(images), 10))
    loss = float(baseline.loss(images @ model.coef_.T + model.intercept_, targets, work))
    objective = loss + float((model.coef_**2).sum()) / (2 * C * len(images))
    return Run([objective], float(model.score(digits.test, digits.test_targets)), seconds, float("nan"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with all of them, print losses, accuracies and times, and raise AssertionError if they do not agree."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.train_digits", description=main.__doc__)
    parser.parse_args(arguments)
    steps = {"fastce": fastce_step, "NumPy baseline": numpy_step}
    for step in steps.values():  # compile and warm up
        for dtype in (np.float32, np.float64):
            train(load(dtype), step, epochs=1)

    digits = load(np.float32)
    n_steps = EPOCHS * (len(digits.train) // BATCH)
    print(f"Digits, {len(digits.train)} images to train and {len(digits.test)} to test, 10 classes")
    print(f"\n{EPOCHS} epochs of minibatches of {BATCH}, float32 ({n_steps} steps)")
    runs = {name: train(digits, step) for name, step in steps.items()}
    for name, run in runs.items():
        show(name, run, n_steps)
    fast, plain = runs.values()
    agree("losses of fastce and the baseline", fast.losses, plain.losses, LOSS_TOLERANCE)
    agree("their accuracies", [fast.accuracy], [plain.accuracy], ACCURACY_TOLERANCE)

    digits = load(np.float64)
    print(f"\nAll images with L2 (C = {C:g}), float64, {STEPS} steps")
    runs = {name: minimise(digits, step) for name, step in steps.items()}
    for name, run in runs.items():
        show(name, run, STEPS)
    sklearn = scikit_learn(digits)
    show("LogisticRegression", sklearn)
    fast, plain = runs.values()
    agree("objectives of fastce and the baseline", fast.losses, plain.losses, LOSS_TOLERANCE)
    agree("objectives of fastce and LogisticRegression", fast.losses[-1:], sklearn.losses, OBJECTIVE_TOLERANCE)
    agree("accuracies of all three", [fast.accuracy, plain.accuracy], [sklearn.accuracy] * 2, ACCURACY_TOLERANCE)


def show(name: str, run: Run, steps: int | None = None) -> None:
    """Print one line."""
    line = f"  {name:<20} loss {run.losses[-1]:.8f}, test accuracy {run.accuracy:.4f}, {run.seconds:.2f} s"
    print(line + (f", loss and gradient {run.loss_seconds / steps * 1e6:.0f} us a step" if steps else ""))


def agree(what: str, one: Sequence[float], other: Sequence[float], tolerance: float) -> None:
    """Print that two lists of numbers agree; raise AssertionError if they do not."""
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=0, err_msg=what)
    print(f"  agree within {tolerance:g}: {what}")


if __name__ == "__main__":
    main()
