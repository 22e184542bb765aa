"""Any number of classes, any number of rows: where loops end, regimes change and rows are left over."""

import pytest
from conftest import FLOAT_TYPES, arithmetic_type, assert_grad, assert_loss, float_type, oracle
from rows import CHUNK, FLOATS, KEPT, exactly, random_rows

import fastce

# Every number of classes through the regimes of few classes and beyond a block of 256; then one less, as many and one
# more than whole vectors, the longest rows kept (of 8 lanes and of 16), twice as many, one chunk and two.
BORDERS = (512, 1000, FLOATS * KEPT // 2, FLOATS * KEPT, FLOATS * KEPT * 2, CHUNK, 2 * CHUNK)
CLASSES = [*range(1, 301), *(n + d for n in BORDERS for d in (-1, 0, 1))]
# One row; fewer than lanes, as many and more, of 8 (float64) and of 16; groups of rows with some left over.
ROWS = (1, 2, 7, 8, 9, 17, 33)


@pytest.mark.parametrize("name", FLOAT_TYPES)
@pytest.mark.parametrize("n_rows", ROWS)
def test_any_number_of_classes(rng, name, n_rows):
    dtype = float_type(name)
    for n_classes in CLASSES:
        logits, targets = random_rows(rng, (n_rows, n_classes))
        logits = logits.astype(dtype)
        loss, grad = exactly(logits, targets)
        result = fastce.cross_entropy_with_grad(logits, targets, reduction="none")
        assert_loss(result.loss, loss)
        assert_grad(result.grad, grad)
        mean = fastce.cross_entropy_with_grad(logits, targets)  # (small calls without options have a way of their own)
        assert mean.loss.dtype == arithmetic_type(dtype)
        assert_loss(mean.loss, loss.mean())
        assert_grad(mean.grad, grad / n_rows)
        for function in (fastce.softmax, fastce.log_softmax):
            assert_grad(function(logits), oracle(function, logits))
