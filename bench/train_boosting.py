"""Boosted trees by XGBoost and LightGBM: with fastce's objective, the model is that of their own.

On scikit-learn's digits, 1,797 rows of 10 classes, and on a generated table of 100,000 rows and 20 classes, each
library trains three times with the same settings: by its own objective, by that of `fastce.boosting`, and by one in
NumPy. The probabilities must agree within what the order of sums explains. (A gradient that differs in its last bit may
turn the choice between two splits that are as good; so not every row has to.)

What an objective takes is measured twice: by itself, and by rounds in which no tree can grow, where the library's own
can be seen too. These rounds include what the library does before and after, such as copying scores and gradients.

Run with `python -m fastce.bench.train_boosting`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_digits, make_classification

import fastce
from fastce.boosting import initial_scores, objective

Array = NDArray[Any]
Objective = Callable[[Array, Any], tuple[Array, Array]]  # scores and training data to gradient and Hessian

ROUNDS = 10
DEPTH, LEAVES, RATE = 5, 24, 0.3
REPEATS = 7  # of what is timed; the median counts
# Of a row's probabilities, the largest difference to those of the library's own objective ...
ROUNDED = 1e-4  # that rounding explains (float32 scores of a few units, after ten rounds)
SHARE_ROUNDED = 0.99  # and in how many rows, at least, that holds
LOSS_TOLERANCE = 1e-3  # relative, mean loss of the test rows


class Table(NamedTuple):
    """Rows of numbers and their classes, a fixed split."""

    name: str
    n_classes: int
    train: Array
    labels: Array
    test: Array
    test_labels: Array


class Library(NamedTuple):
    """How one library is called."""

    name: str
    train: Callable[..., Array]  # table and objective (None: its own) to probabilities of the test rows
    rounds: Callable[..., Callable[[], object]]  # the same to a call of one more round without a tree
    data: Callable[[Table], Any]
    scores: Callable[[Array], Array]  # as it hands them to an objective
    numpy: Objective


def digits() -> Table:
    """Give the digits of scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    return _split("digits", images.astype(np.float32), labels, seed=0)


def generated(n_rows: int = 100_000, n_classes: int = 20) -> Table:
    """Give a table of 16 numbers a row."""
    x, labels = make_classification(
        n_rows, 16, n_informative=10, n_redundant=2, n_classes=n_classes, n_clusters_per_class=1, random_state=0
    )
    return _split("generated", x.astype(np.float32), labels, seed=0)


def _split(name: str, x: Array, labels: Array, seed: int) -> Table:
    order = np.random.default_rng(seed).permutation(len(x))
    x, labels, n_test = x[order], labels[order], len(x) // 10
    n_classes = int(labels.max()) + 1
    return Table(name, n_classes, x[n_test:], labels[n_test:], x[:n_test], labels[:n_test])


# The same in NumPy ----------------------------------------------------------------------------------------------------


def _softmax(scores: Array) -> Array:
    p: Array = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def numpy_for_xgboost(scores: Array, data: Any) -> tuple[Array, Array]:
    """What `multi:softprob` computes, as one writes it."""
    p = _softmax(scores)
    hess = np.maximum(2 * p * (1 - p), 1e-16)
    p[np.arange(len(p)), data.get_label().astype(np.int64)] -= 1
    return p, hess


def numpy_for_lightgbm(scores: Array, data: Any) -> tuple[Array, Array]:
    """What `multiclass` computes, as one writes it."""
    p = _softmax(scores)
    n_classes = p.shape[1]
    hess = n_classes / (n_classes - 1) * p * (1 - p)
    p[np.arange(len(p)), data.get_label().astype(np.int64)] -= 1
    return p, hess


# The libraries --------------------------------------------------------------------------------------------------------


def xgboost_settings(table: Table) -> dict[str, Any]:
    """Give the parameters of a training."""
    return {
        "objective": "multi:softprob",
        "num_class": table.n_classes,
        "max_depth": DEPTH,
        "eta": RATE,
        "max_bin": 64,
        "verbosity": 0,
    }


def _xgboost_data(table: Table) -> Any:
    return xgboost.DMatrix(table.train, table.labels)


def train_xgboost(table: Table, obj: Objective | None, rounds: int = ROUNDS, **settings: Any) -> Array:
    """Train by XGBoost, from where its own objective starts."""
    settings = {**xgboost_settings(table), **settings}
    if obj is not None:
        settings["base_score"] = initial_scores("xgboost", table.labels, table.n_classes).tolist()
    booster = xgboost.train(settings, _xgboost_data(table), rounds, obj=obj)
    probabilities: Array = booster.predict(xgboost.DMatrix(table.test))
    return probabilities


def _rounds_of_xgboost(table: Table, obj: Objective | None, **settings: Any) -> Callable[[], object]:
    data = xgboost.DMatrix(np.zeros((len(table.train), 1), np.float32), table.labels)
    booster = xgboost.Booster({**xgboost_settings(table), **settings, "max_bin": 2}, [data])
    count = iter(range(1_000_000))
    return lambda: booster.update(data, next(count), fobj=obj)


def lightgbm_settings(table: Table, obj: Objective | None) -> dict[str, Any]:
    """Give the parameters of a training."""
    return {
        "objective": obj or "multiclass",
        "num_class": table.n_classes,
        "num_leaves": LEAVES,
        "learning_rate": RATE,
        "max_bin": 63,
        "verbose": -1,
        "deterministic": True,
        "force_col_wise": True,
    }


def _lightgbm_data(table: Table) -> Any:
    return lightgbm.Dataset(table.train, table.labels).construct()


def train_lightgbm(table: Table, obj: Objective | None, rounds: int = ROUNDS, **settings: Any) -> Array:
    """Train by LightGBM, from where its own objective starts."""
    settings = {**lightgbm_settings(table, obj), **settings}
    if obj is None:
        booster = lightgbm.train(settings, lightgbm.Dataset(table.train, table.labels), rounds)
        return np.asarray(booster.predict(table.test))
    start = initial_scores("lightgbm", table.labels, table.n_classes)
    every_row = np.tile(start, (len(table.train), 1))
    booster = lightgbm.train(settings, lightgbm.Dataset(table.train, table.labels, init_score=every_row), rounds)
    return fastce.softmax(np.asarray(booster.predict(table.test, raw_score=True)) + start)


def _rounds_of_lightgbm(table: Table, obj: Objective | None, **settings: Any) -> Callable[[], object]:
    noise = np.random.default_rng(0).random((len(table.train), 1), np.float32)
    settings = {**lightgbm_settings(table, None), **settings}
    settings |= {"min_data_in_leaf": len(table.train), "feature_pre_filter": False}
    if obj is not None:
        settings["objective"] = "none"
    data = lightgbm.Dataset(noise, table.labels, params=settings)
    booster = lightgbm.Booster(settings, data)
    return lambda: booster.update(fobj=obj)


def _as_float32(scores: Array) -> Array:
    return scores.astype(np.float32)


LIBRARIES = (
    Library("xgboost", train_xgboost, _rounds_of_xgboost, _xgboost_data, _as_float32, numpy_for_xgboost),
    Library("lightgbm", train_lightgbm, _rounds_of_lightgbm, _lightgbm_data, np.asfortranarray, numpy_for_lightgbm),
)


# Comparison -----------------------------------------------------------------------------------------------------------


def differences(own: Array, other: Array) -> Array:
    """Largest difference of the probabilities of each row."""
    largest: Array = np.abs(own.astype(np.float64) - other).max(axis=1)
    return largest


def mean_loss(probabilities: Array, labels: Array) -> float:
    """Mean loss of the rows, of their probabilities."""
    with np.errstate(divide="ignore"):
        return float(fastce.nll_loss(np.log(probabilities.astype(np.float64)), labels))


def agree(table: Table, own: Array, other: Array) -> tuple[float, float, float]:
    """Give median and largest difference, and in how many rows rounding explains it; raise if these are few."""
    difference = differences(own, other)
    share = float((difference <= ROUNDED).mean())
    assert share >= SHARE_ROUNDED, f"only {share:.4f} of the rows agree within {ROUNDED:g}"
    loss, loss_of_own = (mean_loss(p, table.test_labels) for p in (other, own))
    np.testing.assert_allclose(loss, loss_of_own, rtol=LOSS_TOLERANCE)
    return float(np.median(difference)), float(difference.max()), share


def milliseconds(function: Callable[[], object]) -> float:
    """Median time of a call."""
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def compare(table: Table, library: Library, rounds: int, **settings: Any) -> None:
    """Train with all objectives, print what they give and take, and raise AssertionError if they do not agree."""
    objectives: dict[str, Objective | None] = {
        "its own": None,
        "fastce": objective(library.name),
        "NumPy": library.numpy,
    }
    shape = len(table.train), table.n_classes
    scores = library.scores(np.random.default_rng(0).normal(size=shape))
    data = library.data(table)
    print(f"\n{library.name} on {table.name}: {shape[0]:,} rows, {shape[1]} classes, {rounds} rounds")
    own = np.empty(0)
    for name, function in objectives.items():
        start = time.perf_counter()
        found = library.train(table, function, rounds, **settings)
        seconds = time.perf_counter() - start
        if function is None:
            own = found
        median, largest, share = agree(table, own, found)
        right = float((found.argmax(axis=1) == table.test_labels).mean())
        alone = f"{milliseconds(partial(function, scores, data)):8.2f} ms" if function else "          -"
        print(
            f"  {name:<8} {seconds:6.2f} s, loss {mean_loss(found, table.test_labels):.6f}, accuracy {right:.4f}, "
            f"off by {median:.1e} (largest {largest:.1e}, rounding alone in {share:.2%}); objective {alone}, "
            f"a round without trees {milliseconds(library.rounds(table, function, **settings)):8.2f} ms"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare on both tables."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.train_boosting", description=main.__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the generated table")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of one tree a class each")
    parser.add_argument("--threads", type=int, default=0, help="of XGBoost and LightGBM; all of them if not given")
    options = parser.parse_args(arguments)
    fastce.warmup(("float32", "float64"), functions="cross_entropy_with_grad")
    print(f"XGBoost {xgboost.__version__}, LightGBM {lightgbm.__version__}, fastce {fastce.__version__}")
    for table in (digits(), generated(options.rows)):
        for library in LIBRARIES:
            compare(table, library, options.rounds, nthread=options.threads)


if __name__ == "__main__":
    main()
