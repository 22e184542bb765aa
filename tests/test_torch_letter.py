"""The loss for PyTorch, to the letter of PyTorch's: its own test cases, types, shapes and errors."""

import inspect
import itertools

import pytest
from conftest import ROUNDING

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="expecttest, which PyTorch's own test cases need, is not installed")

import torch
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from fastce.torch import CrossEntropyLoss, cross_entropy

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
OP = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
MODULE = next(module for module in module_db if module.module_cls is torch.nn.CrossEntropyLoss)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20240229)


def fresh(tensor, dtype=None):
    """Copy a tensor; a leaf that wants a gradient if the original does."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    copy = tensor.detach().clone()
    if dtype is not None and copy.is_floating_point():
        copy = copy.to(dtype)
    return copy.requires_grad_(tensor.requires_grad)


def run(function, input, target, kwargs, dtype=None, upstream=None):
    """Give loss, gradients of logits and target, and the upstream gradient."""
    input, target = fresh(input, dtype), fresh(target, dtype)
    kwargs = {name: fresh(value, dtype) for name, value in kwargs.items()}
    loss = function(input, target, **kwargs)
    if upstream is None:
        upstream = torch.randn_like(loss)
    if not loss.requires_grad:
        return loss, None, None, upstream
    loss.backward(upstream.to(loss.dtype))
    return loss.detach(), input.grad, target.grad, upstream


def check(function, theirs, input, target, **kwargs):
    """Compare with PyTorch: kinds with what it gives, numbers with what it gives in float64 and, coarsely, itself."""
    found = run(function, input, target, kwargs)
    upstream = found[-1]
    same_type = run(theirs, input, target, kwargs, upstream=upstream)
    exact = run(theirs, input, target, kwargs, torch.float64, upstream)
    relative, least = ROUNDING[_numpy_name(input.dtype)]
    for mine, other, wanted in zip(found[:3], same_type[:3], exact[:3], strict=True):
        assert (mine is None) == (other is None)
        if mine is None:
            continue
        assert mine.dtype is other.dtype
        assert mine.shape == other.shape
        assert mine.device == other.device
        if target.requires_grad:  # by PyTorch's own operations
            torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
            continue
        # A few roundings of the arithmetic, and those of the result: of the gradient and of its scaling.
        scale = wanted.abs().max().item() if wanted.numel() else 1.0
        inner = 1e-14 if input.dtype is torch.float64 else 1e-6
        torch.testing.assert_close(
            mine.double(), wanted, rtol=2.5 * relative + inner, atol=inner * scale + 2.5 * least, equal_nan=True
        )
        if input.dtype in (torch.float32, torch.float64):  # (of 16 bits, PyTorch rounds what is in between, too)
            largest = max(scale, input.detach().abs().max().item())  # small losses are differences there
            torch.testing.assert_close(mine, other, rtol=4 * inner, atol=inner * largest, equal_nan=True)


def _numpy_name(dtype):
    import ml_dtypes
    import numpy as np

    name = str(dtype).removeprefix("torch.")
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


# PyTorch's own cases --------------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("requires_grad", [False, True])
def test_cases_of_opinfo(dtype, requires_grad):
    samples = list(OP.sample_inputs("cpu", dtype, requires_grad=requires_grad))
    assert len(samples) == 21
    for sample in samples:
        check(cross_entropy, F.cross_entropy, sample.input, *sample.args, **sample.kwargs)
        # The kernels take no target that wants a gradient: these go to PyTorch's operations. Once more for the kernels.
        args = [fresh(a).requires_grad_(False) for a in sample.args]
        check(cross_entropy, F.cross_entropy, fresh(sample.input).requires_grad_(), *args, **sample.kwargs)


@every_dtype
@pytest.mark.parametrize("requires_grad", [False, True])
def test_cases_of_moduleinfo(dtype, requires_grad):
    cases = MODULE.module_inputs_func(MODULE, device="cpu", dtype=dtype, requires_grad=requires_grad, training=True)
    assert len(cases) == 3 * (5 * 4 + 3 * 5)
    for case in cases:
        given = case.constructor_input
        ours, theirs = (
            CrossEntropyLoss(*given.args, **given.kwargs),
            torch.nn.CrossEntropyLoss(*given.args, **given.kwargs),
        )
        check_module(ours, theirs, case)
        input, target = case.forward_input.args
        if target.requires_grad:
            case.forward_input.args = (input, target.detach())
            check_module(ours, theirs, case)


def check_module(ours, theirs, case):
    input, target = case.forward_input.args

    def module(input, target):
        weight = theirs.weight
        if weight is not None and weight.dtype is not input.dtype:  # the oracle of float64
            return F.cross_entropy(
                input, target, weight.to(input.dtype), ignore_index=theirs.ignore_index,
                reduction=theirs.reduction, label_smoothing=theirs.label_smoothing,
            )  # fmt: skip
        return theirs(input, target)

    check(ours, module, input, target)
    if input.dtype in (torch.float32, torch.float64):
        input, target = input.detach(), target.detach()
        torch.testing.assert_close(ours(input, target), case.reference_fn(ours, input, target))


def test_errors_of_moduleinfo():
    cases = MODULE.module_error_inputs_func(
        MODULE, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert len(cases) >= 4
    for case in cases:
        module_input = case.module_error_input
        given, args = module_input.constructor_input, module_input.forward_input.args
        module = CrossEntropyLoss(*given.args, **given.kwargs)
        with pytest.raises(case.error_type, match=case.error_regex):
            module(*args)


# Signature, types, shapes ---------------------------------------------------------------------------------------------


def test_signatures_begin_with_pytorchs():
    extras = ["z_loss", "softcap", "logit_scale", "sample_weight", "normalizer", "inplace", "aux"]
    for ours, theirs in ((cross_entropy, F.cross_entropy), (CrossEntropyLoss, torch.nn.CrossEntropyLoss)):
        mine, other = (list(inspect.signature(f).parameters.values()) for f in (ours, theirs))
        for a, b in zip(mine, other, strict=False):
            assert (a.name, a.kind, a.default) == (b.name, b.kind, b.default)
        assert [p.name for p in mine[len(other) :]] == extras
        assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(other) :])
    assert isinstance(CrossEntropyLoss(), torch.nn.CrossEntropyLoss)
    assert CrossEntropyLoss(torch.ones(3), sample_weight=torch.ones(2)).state_dict().keys() == {"weight"}
    assert repr(CrossEntropyLoss()) == repr(torch.nn.CrossEntropyLoss())


FLOATS = (*DTYPES, torch.float8_e4m3fn)
OTHERS = (torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64)


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_every_combination_of_types(kind, autocast):
    """The same type of loss, or the same type of error."""
    x = torch.randn(5, 4).clamp(-2, 2)
    target = torch.randint(4, (5,)) if kind == "classes" else torch.softmax(torch.randn(5, 4), 1)
    weight = torch.tensor([1.0, 2.0, 1.0, 3.0])
    for a, b, c in itertools.product((*FLOATS, *OTHERS), (*FLOATS, *OTHERS), (None, *FLOATS, torch.int64)):
        given = x.to(a), target.to(b), None if c is None else weight.to(c)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            same_outcome(*given)


def same_outcome(*args, **kwargs):
    ours, theirs = outcome(cross_entropy, *args, **kwargs), outcome(F.cross_entropy, *args, **kwargs)
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor), (args, kwargs, ours)
        assert ours.dtype is theirs.dtype, (args, kwargs)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02, equal_nan=True)
    else:
        assert ours is theirs, (args, kwargs)


def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error)


X, Y, Q = torch.tensor([[0.5, 2.0, -1.0]] * 4), torch.tensor([0, 1, 2, 1]), torch.full((4, 3), 1 / 3)
WEIGHT = torch.tensor([2.0, 3.0, 0.5])
CALLS = {
    "no classes": (X[:, :0], Y),
    "no classes, probabilities": (X[:, :0], Q[:, :0]),
    "no rows": (X[:0], Y[:0]),
    "no rows, probabilities": (X[:0], Q[:0]),
    "nothing": (X[:0, :0], Y[:0]),
    "no positions": (torch.zeros(2, 3, 0), torch.zeros(2, 0, dtype=torch.long)),
    "one dimension": (X[0], Y[0]),
    "one dimension, one target": (X[0], Y[:1]),
    "one dimension, probabilities": (X[0], Q[0]),
    "one dimension, weighted": (X[0], Y[0], WEIGHT),
    "one dimension, ignored": (X[0], torch.tensor(-100)),
    "one dimension of integers": (X[0], torch.zeros(3, dtype=torch.long)),
    "no dimension": (X[0, 0], Y[0]),
    "one class": (X[:, :1], Y * 0),
    "one class, as probabilities": (X[:, :1], Y[:, None] * 0),
    "all ignored": (X, Y * 0 - 100),
    "too few targets": (X, Y[:3]),
    "targets as a column": (X, Y[:, None]),
    "targets of another shape": (torch.zeros(2, 3, 4), Y[:2]),
    "targets of one more dimension": (torch.zeros(2, 3), torch.zeros(2, 3, 4)),
    "class too large": (X, Y + 3),
    "class below 0": (X, Y - 1),
    "class too large, one dimension": (X[0], Y[0] + 5),
    "class too large, more dimensions": (torch.zeros(2, 3, 2), torch.full((2, 2), 7)),
    "class too large, uint8": (X, (Y + 5).to(torch.uint8)),
    "uint8": (X, Y.to(torch.uint8)),
    "weights of another length": (X, Y, torch.ones(4)),
    "weights of another length, probabilities": (X, Q, torch.ones(1)),
    "weights of two dimensions": (X, Y, torch.ones(1, 3)),
    "weights that are 0": (X[:1], Y[:1], torch.tensor([0.0, 1, 1])),
    "negative weights": (X, Y, -WEIGHT),
    "logits of NumPy": (X.numpy(), Y),
    "targets of NumPy": (X, Y.numpy()),
    "weights of NumPy": (X, Y, WEIGHT.numpy()),
    "targets in a list": (X, [0, 1, 2, 1]),
    "no targets": (X, None),
    "no logits": (None, Y),
    "logits on meta": (X.to("meta"), Y),
    "targets on meta": (X, Y.to("meta")),
    "weights on meta": (X, Y, WEIGHT.to("meta")),
    "sparse logits": (X.to_sparse(), Y),
    "sparse targets": (X, Q.to_sparse()),
    "minus infinity": (torch.tensor([[0.0, -torch.inf, 1.0]]), Y[:1]),
    "infinity": (torch.tensor([[0.0, torch.inf, 1.0]]), Y[:1]),
    "target at minus infinity": (torch.tensor([[-torch.inf, 0.0, 1.0]]), Y[:1]),
}
SETTINGS = {
    "": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smoothing": {"label_smoothing": 0.1},
    "all smoothed": {"label_smoothing": 1},
    "smoothing above 1": {"label_smoothing": 1.5},
    "smoothing below 0": {"label_smoothing": -0.5, "reduction": "none"},
    "smoothing NaN": {"label_smoothing": float("nan")},
    "smoothing as text": {"label_smoothing": "a"},
    "smoothing None": {"label_smoothing": None},
    "class ignored": {"ignore_index": 1},
    "negative class ignored": {"ignore_index": -1, "reduction": "sum"},
    "ignored None": {"ignore_index": None},
    "ignored a float": {"ignore_index": 1.0},
    "ignored a bool": {"ignore_index": True},
    "ignored huge": {"ignore_index": 2**70},
    "unknown reduction": {"reduction": "max"},
    "no reduction": {"reduction": None},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("args", CALLS.values(), ids=CALLS)
def test_outcome(args, setting):
    if args is CALLS["target at minus infinity"] and setting.get("label_smoothing") == 1:
        assert F.cross_entropy(*args, **setting).isnan()
        assert cross_entropy(*args, **setting) == torch.inf  # no share of the target, a third of an infinite distance
        return
    same_outcome(*args, **setting)


@pytest.mark.parametrize("size_average", [None, False, True])
@pytest.mark.parametrize("reduce", [None, False, True])
def test_deprecated_arguments(size_average, reduce):
    given = (X, Y, None, size_average, -100, reduce)
    if size_average is reduce is None:
        same_outcome(*given)
        return
    with pytest.warns(UserWarning, match="deprecated"):
        same_outcome(*given)
    with pytest.warns(UserWarning, match="deprecated"):
        criterion = CrossEntropyLoss(None, size_average, -100, reduce)
    with pytest.warns(UserWarning, match="deprecated"):
        torch.testing.assert_close(criterion(X, Y), F.cross_entropy(*given))


def test_deprecated_reduction():
    with pytest.warns(UserWarning, match="deprecated"):
        same_outcome(X, Y, reduction="elementwise_mean")


def test_negative_zero_bit():
    """A view whose numbers PyTorch negates only when they are read."""
    x = torch.randn(4, 3, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    check(cross_entropy, F.cross_entropy, x.requires_grad_(), Y)
    same_outcome(x.detach(), Y, x[0].detach().abs())
