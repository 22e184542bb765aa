"""What the loss for PyTorch has beyond PyTorch: against the oracle, by the kernels and by PyTorch's operations."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from conftest import FLOAT_TYPES, assert_grad, assert_loss, float_type, oracle

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

import fastce
from fastce.problem import AUX
from fastce.torch import CrossEntropyLoss, CrossEntropyOutput, cross_entropy
from fastce.torch.composed import composed
from fastce.torch.options import PLAIN, with_extras
from fastce.torch.solve import array_of, tensor_of

SHAPES = {"one row": (7,), "rows": (40, 201), "two dimensions more": (2, 3, 5, 4)}
OPTIONS = {
    "z-loss": {"z_loss": 0.125},
    "softcap": {"softcap": 8.0},
    "scale": {"logit_scale": 1.5},
    "negative scale": {"logit_scale": -0.5},
    "normalizer": {"normalizer": 17.0},
    "sample weights": {"sample_weight": True},
    "z-loss, weights": {"z_loss": 0.125, "weight": True, "sample_weight": True},
    "everything": {
        "z_loss": 0.125, "softcap": 8.0, "logit_scale": 1.5, "weight": True, "sample_weight": True, "ignore_index": 0,
        "label_smoothing": 0.25,
    },
}  # fmt: skip


def make(rng, shape, dtype, kind, options):
    axis = min(1, len(shape) - 1)
    rows = tuple(np.delete(shape, axis))
    logits = (rng.normal(size=shape) * 3).astype(float_type(dtype))
    targets = rng.integers(0, shape[axis], rows)
    options = dict(options)
    if kind == "probabilities":
        targets = np.exp(rng.normal(size=shape))
        targets = (targets / targets.sum(axis=axis, keepdims=True)).astype(logits.dtype)
        options.pop("ignore_index", None)
    else:
        targets = np.asarray(targets)
        targets.flat[0] = 1
    if "weight" in options:
        options["weight"] = rng.uniform(0.5, 2, shape[axis]).astype(logits.dtype)
    if "sample_weight" in options:
        options["sample_weight"] = np.asarray(rng.uniform(0.5, 2, rows), np.float32)
    return logits, targets, options, axis


@pytest.mark.parametrize("by", ["kernels", "operations"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_options_and_aux(rng, shape, dtype, kind, by):
    for given, reduction in itertools.product(OPTIONS.values(), ("mean", "sum", "none")):
        logits, targets, options, axis = make(rng, shape, dtype, kind, given)
        aux = AUX if kind == "classes" else ("lse", "argmax", "entropy")
        expected = oracle(
            fastce.cross_entropy_with_grad, logits, targets, axis=axis, aux=aux, reduction=reduction, **options
        )
        x = tensor_of(logits.copy()).requires_grad_()
        y = tensor_of(targets)
        tensors = {name: tensor_of(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}
        if by == "kernels":
            result = cross_entropy(x, y, aux=aux, reduction=reduction, **tensors)
        else:
            result = by_operations(x, y, aux, reduction, **tensors)
        assert isinstance(result, CrossEntropyOutput)
        result.loss.sum().backward()
        check(result, x, expected, logits, options, axis, by)


def by_operations(
    x, y, aux, reduction, weight=None, sample_weight=None, ignore_index=-100, label_smoothing=0.0, **extras
):
    o = PLAIN._replace(ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
    extras = {"z_loss": 0.0, "softcap": None, "logit_scale": 1.0, "normalizer": None, **extras}
    return composed(x, y, weight, sample_weight, with_extras(o, y, **extras, aux=aux))


def check(result, x, expected, logits, options, axis, by):
    largest = np.abs(logits.astype(float)).max() * abs(options.get("logit_scale", 1))
    loose = 1 if by == "kernels" else 4  # PyTorch's operations round more often
    double = logits.dtype == np.float64
    # The loss has the type of the logits: compare 16 bits after the same rounding.
    loss = array_of(result.loss.detach())
    assert loss.dtype == logits.dtype
    if loss.itemsize > 2:
        assert_loss(loss, expected.loss, loose * max(largest, 1))
    else:
        step = 2.0**-10 if logits.dtype == np.float16 else 2.0**-7
        np.testing.assert_allclose(loss.astype(float), expected.loss, rtol=step, atol=step * 0.01)
    terms = max(np.abs(expected.grad).max(), 1e-3)
    assert_grad(array_of(x.grad), expected.grad, loose * largest, loose * terms, axis)
    for name in AUX:
        found, wanted = getattr(result, name), getattr(expected, name)
        if wanted is None:
            assert found is None
            continue
        found, wanted = found.numpy(), np.asarray(wanted)
        assert not getattr(result, name).requires_grad
        assert found.shape == wanted.shape
        if name in ("argmax", "correct", "rank"):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
        else:
            assert found.dtype == (np.float64 if double else np.float32)
            assert_loss(found, wanted, loose * max(largest, 1))


def test_aux_is_in_order_whatever_was_asked_for_first():
    x, y = torch.randn(5, 4).requires_grad_(), torch.tensor([0, 1, 2, 3, -100])
    for inputs in (x, x.detach()):
        result = cross_entropy(inputs, y, aux=["rank", "correct", "lse"])
        assert result.argmax is result.target_prob is result.entropy is None
        torch.testing.assert_close(result.lse[:4], x.detach().logsumexp(1)[:4])
        assert torch.equal(result.correct[:4], x.argmax(1)[:4] == y[:4])
        assert (result.lse[4], result.rank[4], result.correct[4]) == (0, 0, False)
    assert torch.autograd.grad(result.loss + result.lse.sum(), x, allow_unused=True) if result.loss.requires_grad else 1


def test_aux_has_no_gradient():
    x = torch.randn(5, 4).requires_grad_()
    result = cross_entropy(x, torch.arange(5) % 4, aux=("lse",))
    with pytest.raises(RuntimeError, match="does not require grad"):
        result.lse.sum().backward()


def test_the_module_hands_everything_on():
    x, y = torch.randn(5, 4), torch.arange(5) % 4
    w, s = torch.rand(4), torch.rand(5)
    options = {
        "z_loss": 0.1,
        "softcap": 5.0,
        "logit_scale": 2.0,
        "sample_weight": s,
        "normalizer": 3.0,
        "aux": ("lse",),
    }
    criterion = CrossEntropyLoss(w, ignore_index=2, label_smoothing=0.1, inplace=True, **options)
    wanted = cross_entropy(x, y, w, ignore_index=2, label_smoothing=0.1, **options)
    found = criterion(x, y)
    assert torch.equal(found.loss, wanted.loss)
    assert torch.equal(found.lse, wanted.lse)
    given = criterion(x, y, sample_weight=2 * s, normalizer=6.0)
    torch.testing.assert_close(given.loss, wanted.loss)
    logits = x.clone().requires_grad_()
    criterion(logits, y).loss.backward()
    with pytest.raises(RuntimeError, match="no more"):
        logits + 1


X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
ERRORS = {
    "z_loss NaN": ({"z_loss": float("nan")}, ValueError, "z_loss must be finite"),
    "z_loss as text": ({"z_loss": "a"}, TypeError, "z_loss must be a number"),
    "softcap 0": ({"softcap": 0.0}, ValueError, "softcap must be greater than 0"),
    "scale infinite": ({"logit_scale": float("inf")}, ValueError, "logit_scale must be finite"),
    "normalizer below 0": ({"normalizer": -1.0}, ValueError, "normalizer must be greater than 0"),
    "unknown aux": ({"aux": ("max",)}, ValueError, "each name in aux must be one of"),
    "Hessian": ({"aux": ("hess",)}, ValueError, "aux 'hess' is not to be had here"),
    "aux as text": ({"aux": "lse"}, TypeError, "aux must be a tuple"),
    "sample weights of another shape": ({"sample_weight": torch.ones(3)}, ValueError, "sample_weight must have shape"),
    "sample weights as a list": ({"sample_weight": [1.0] * 4}, TypeError, "sample_weight must be a tensor"),
    "sample weights of NumPy": ({"sample_weight": np.ones(4)}, TypeError, "sample_weight must be a tensor"),
    "complex sample weights": ({"sample_weight": torch.ones(4) * 1j}, TypeError, "sample_weight must be a tensor"),
    "sample weights elsewhere": ({"sample_weight": torch.ones(4, device="meta")}, RuntimeError, "sample_weight is on"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "error", "match"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("by", ["kernels", "operations"])
def test_errors(options, error, match, by):
    w = torch.ones(3, requires_grad=True) if by == "operations" else None  # a gradient that the kernels do not know
    target = Y if w is None else torch.eye(3)[Y]
    with pytest.raises(error, match=match):
        cross_entropy(X, target, w, **options)


def test_aux_of_classes_needs_classes():
    with pytest.raises(ValueError, match="needs class targets"):
        cross_entropy(X, torch.eye(3)[Y], aux=("rank",))


def test_errors_of_pytorch_come_first():
    for args, error, match in (
        ((X, Y[:3]), ValueError, "Expected input batch_size"),
        ((X.long(), Y), NotImplementedError, "not implemented for 'Long'|log_softmax"),
        ((X, Y.int()), RuntimeError, "expected target dtype"),
    ):
        with pytest.raises(error, match=match):
            cross_entropy(*args, z_loss=0.1, sample_weight=torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64], ids=str)
def test_sample_weights_of_any_type(dtype):
    x, y = torch.randn(4, 3), Y
    s = torch.tensor([1, 0, 1, 0]).to(dtype)
    torch.testing.assert_close(cross_entropy(x, y, sample_weight=s), cross_entropy(x[::2], y[::2]))
    torch.testing.assert_close(composed(x, y, None, s, PLAIN), cross_entropy(x[::2], y[::2]))


def test_bfloat16_is_the_same_memory():
    x = torch.randn(4, 3).bfloat16()
    array = array_of(x.t())
    assert array.dtype == ml_dtypes.bfloat16
    assert array.__array_interface__["data"][0] == x.data_ptr()
    assert tensor_of(array).data_ptr() == x.data_ptr()
    assert torch.equal(tensor_of(array), x.t())
