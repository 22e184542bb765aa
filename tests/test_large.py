"""More than 2**31 logits in one array, in every regime of the kernels: `make slow`, with 10 GB of memory."""

import numpy as np
import pytest
from conftest import assert_grad, assert_loss, float_type

import fastce

SHAPES = {
    "few classes": (2**28 + 3, 8),
    "rows": (65_537, 32_769),
    "a few long rows": (3, 2**30 + 5),
    "one row, classes beyond 2**31": (1, 2**31 + 17),
}


@pytest.mark.parametrize("n_rows", [1, 9])  # chunks shared by the threads, and row by row
def test_classes_and_ranks_that_a_float32_cannot_hold(backend, n_rows):
    n_classes = 2**24 + 7
    logits = np.zeros((n_rows, n_classes), float_type("bfloat16"))
    logits[:, n_classes - 2] = 1
    logits[:, 0] = -1
    result = fastce.cross_entropy_with_grad(
        logits[:1] if backend == "reference" else logits,
        np.zeros(1 if backend == "reference" else n_rows, np.int64),
        aux=("argmax", "rank", "correct"),
        backend=backend,
    )
    assert (result.argmax == n_classes - 2).all()
    assert (result.rank == n_classes - 1).all()
    assert not result.correct.any()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_more_than_2_31_logits(rng, shape):
    n_rows, n_classes = shape
    assert n_rows * n_classes > 2**31
    logits = np.zeros(shape, float_type("bfloat16"))
    targets = np.zeros(n_rows, np.int64)
    special = {}  # at either end and in the middle, rows that are not zeros alone: their columns and values
    for row in sorted({0, n_rows // 2, n_rows - 1}):
        columns = np.unique(np.append(rng.integers(n_classes, size=40), n_classes - 1))
        logits[row, columns] = rng.normal(0, 3, len(columns))
        targets[row] = n_classes - 1
        special[row] = columns, logits[row, columns].astype(np.float64)

    result = fastce.cross_entropy_with_grad(
        logits, targets, reduction="none", grad_out=logits, aux=("lse", "argmax", "rank")
    )

    for row, (columns, z) in special.items():
        lse = np.log(n_classes - len(z) + np.exp(z).sum())
        assert_loss(result.lse[row], lse)
        assert_loss(result.loss[row], lse - z[-1])
        assert result.argmax[row] == columns[z.argmax()]
        assert result.rank[row] == (z > z[-1]).sum() + (n_classes - len(z) if z[-1] < 0 else 0)
        grad = np.exp(z - lse)
        grad[-1] = -(n_classes - len(z) + np.exp(z[:-1]).sum()) / np.exp(lse)
        assert_grad(logits[row, columns], grad, largest_logit=20.0)
        others = np.setdiff1d(rng.integers(n_classes, size=1000), columns)
        assert_grad(logits[row, others], np.full(len(others), np.exp(-lse)), largest_logit=20.0)
    for row in np.setdiff1d(rng.integers(n_rows, size=1000), list(special)):
        assert_loss(result.loss[row], np.log(n_classes))
        expected = np.full(n_classes, 1 / n_classes)
        expected[0] -= 1
        assert_grad(logits[row], expected)
    loss = np.delete(result.loss, list(special))
    assert (loss == loss[:1]).all()
