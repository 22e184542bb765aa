"""The loss for PyTorch in autograd's graph: upstream gradients, second derivatives, checkpoints, in place."""

import gc
import io

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastce.torch import cross_entropy, fused
from fastce.torch import loss as loss_module

# (what PyTorch does when it first differentiates forward)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

N, C = 6, 5
REDUCTIONS = ("mean", "sum", "none")
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20240229)


def leaf(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def classes(*rows, n_classes=C):
    return torch.randint(n_classes, rows)


def probabilities(*shape):
    return torch.randn(*shape, dtype=torch.float64).softmax(1)


def gradient(function, x, *args, **kwargs):
    return torch.autograd.grad(function(x, *args, **kwargs), x)[0]


@pytest.fixture
def solved(monkeypatch):
    """What the kernels are asked for, call by call: whether a gradient is."""
    calls = []

    def solve(*args, with_grad, **kwargs):
        calls.append(with_grad)
        return original(*args, with_grad=with_grad, **kwargs)

    original = fused.solve
    monkeypatch.setattr(fused, "solve", solve)
    monkeypatch.setattr(loss_module, "solve", solve)
    return calls


# One pass -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0])
def test_a_scalar_loss_takes_one_pass(solved, dtype, factor):
    x, y = leaf(N, C, dtype=dtype), classes(N)
    loss = cross_entropy(x, y)
    assert solved == [True]
    (factor * loss).backward()
    again = dtype is torch.float16 and factor != 1  # scaled before it is rounded
    assert solved == [True] + [True] * again
    torch.testing.assert_close(x.grad, factor * gradient(F.cross_entropy, x, y), rtol=0.02, atol=1e-3)


def test_no_gradient_wanted_none_computed(solved):
    x, y = torch.randn(N, C), classes(N)
    for wants, context in ((False, torch.enable_grad()), (True, torch.no_grad()), (True, torch.inference_mode())):
        given = x.clone().requires_grad_(wants)
        with context:
            loss = cross_entropy(given, y, inplace=True, aux=("correct",)).loss
        assert not loss.requires_grad
        assert torch.equal(given, x)
    assert solved == [False] * 3
    assert loss.is_inference()


def test_inference_tensors():
    with torch.inference_mode():
        x = torch.randn(N, C)
    y = classes(N)
    torch.testing.assert_close(cross_entropy(x, y), F.cross_entropy(x, y))


def test_the_gradient_is_not_copied(monkeypatch):
    addresses = []

    def solve(*args, **kwargs):
        solved = original(*args, **kwargs)
        addresses.append(solved.grad.data_ptr())
        return solved

    original = fused.solve
    monkeypatch.setattr(fused, "solve", solve)
    for shape in ((N, C), (2, C, 3), (300, 1000)):  # the short way; the long one; on all threads
        x = leaf(*shape, dtype=torch.float32)
        cross_entropy(x, classes(*shape[:1], *shape[2:])).backward()
        assert x.grad.data_ptr() == addresses.pop()


def test_a_loss_scale_keeps_float16_from_underflow():
    """Elements of 1e-3 / 8192, far below the smallest number of float16, times 2**16."""
    x = torch.randn(8192, 100, dtype=torch.float16).requires_grad_()
    y = classes(8192, n_classes=100)
    wanted = gradient(lambda a: 65536 * F.cross_entropy(a, y), x.detach().double().requires_grad_())
    for inplace in (False, True):
        given = x.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.float16):
            loss = cross_entropy(given, y, inplace=inplace)
        assert loss.dtype is torch.float32
        (65536 * loss).backward()
        torch.testing.assert_close(
            given.grad.double(), wanted, rtol=2.0**-11, atol=2.0**-25 + 1e-6 * wanted.abs().max()
        )


# Upstream -------------------------------------------------------------------------------------------------------------

UPSTREAM = {
    "ones": torch.ones_like,
    "zeros": torch.zeros_like,
    "random": torch.randn_like,
    "expanded": lambda loss: torch.tensor(0.25, dtype=loss.dtype).expand(loss.shape),
    "every second": lambda loss: torch.randn(*loss.shape, 2, dtype=loss.dtype)[..., 1],
    "transposed": lambda loss: torch.randn(loss.shape[::-1], dtype=loss.dtype).permute(tuple(range(loss.dim()))[::-1]),
}


@every_reduction
@pytest.mark.parametrize("upstream", UPSTREAM.values(), ids=UPSTREAM)
@pytest.mark.parametrize("shape", [(C,), (N, C), (2, C, 3), (2, C, 3, 4)], ids=str)
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_upstream_gradients(reduction, upstream, shape, kind):
    x = leaf(*shape)
    y = classes(*(shape[:1] + shape[2:] if len(shape) > 1 else ()))
    if kind == "probabilities":
        y = torch.randn(shape, dtype=torch.float64).softmax(min(1, len(shape) - 1))
    ours, theirs = cross_entropy(x, y, reduction=reduction), F.cross_entropy(x, y, reduction=reduction)
    given = upstream(theirs)
    (mine,) = torch.autograd.grad(ours, x, given)
    torch.testing.assert_close(mine, torch.autograd.grad(theirs, x, given)[0])


def test_logits_of_any_strides():
    storage = torch.randn(4, 12, 7, dtype=torch.float64)
    views = {
        "transposed": storage[0].t(),
        "every second row": storage[0, ::2],
        "every second class": storage[0, :, ::2],
        "expanded": storage[0, 0].expand(6, 7),
        "one dimension moved": storage.transpose(1, 2),
        "channels last": torch.randn(2, 7, 3, 4, dtype=torch.float64).to(memory_format=torch.channels_last),
    }
    for view in views.values():
        x = view.detach().requires_grad_()
        y = classes(*view.shape[:1], *view.shape[2:], n_classes=view.shape[1])
        for reduction in REDUCTIONS:
            ours, theirs = (f(x, y, reduction=reduction).sum() for f in (cross_entropy, F.cross_entropy))
            torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (ours, theirs)))


def test_several_losses_of_the_same_logits():
    h, y = leaf(N, C), classes(N)
    x = 2 * h
    w = torch.rand(C, dtype=torch.float64)
    total = (
        cross_entropy(x, y) + 3 * cross_entropy(x, y, w, reduction="sum") + cross_entropy(x, y, reduction="none").max()
    )
    wanted = F.cross_entropy(x, y) + 3 * F.cross_entropy(x, y, w, reduction="sum")
    wanted = wanted + F.cross_entropy(x, y, reduction="none").max()
    torch.testing.assert_close(*(torch.autograd.grad(t, h, retain_graph=True)[0] for t in (total, wanted)))


@every_reduction
def test_backward_again(reduction):
    """With retain_graph, also after somebody has written to what the first time gave."""
    x, y = leaf(N, C), classes(N)
    wanted = gradient(lambda a: F.cross_entropy(a, y, reduction=reduction).sum(), x)
    loss = cross_entropy(x, y, reduction=reduction).sum()
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, times * wanted)
    x.grad.zero_()
    (2 * loss).backward()
    torch.testing.assert_close(x.grad, 2 * wanted)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_logits_that_change_between():
    x, y = leaf(N, C), classes(N)
    wanted = gradient(F.cross_entropy, x, y)
    h = 1 * x
    loss, rows = cross_entropy(h, y), cross_entropy(h, y, reduction="none")
    with torch.no_grad():
        h.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, x, retain_graph=True)[0], wanted)  # as PyTorch's
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        rows.sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # computed again
        torch.autograd.grad(loss, x)


def test_memory_is_let_go_after_backward():
    x, y = leaf(N, C), classes(N)
    loss = cross_entropy(x, y)
    loss.backward()
    gc.collect()
    assert "grad" not in loss.grad_fn.__dict__


# Derivatives of all kinds ---------------------------------------------------------------------------------------------

W = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.5], dtype=torch.float64)
S = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.5, 0.75], dtype=torch.float64)
SETTINGS = {
    "plain": {},
    "weights": {"weight": W},
    "smoothing": {"label_smoothing": 0.2},
    "all": {"weight": W, "label_smoothing": 0.2, "ignore_index": 1, "z_loss": 0.1, "softcap": 2.0, "logit_scale": 0.7,
            "sample_weight": S},
    "normalizer": {"normalizer": 3.0, "z_loss": 0.1},
}  # fmt: skip


@every_reduction
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_gradcheck(reduction, setting, kind):
    setting = {**setting, "reduction": reduction}
    y = classes(N)
    y[0] = 0  # not ignored
    if kind == "probabilities":
        y = probabilities(N, C)
        setting.pop("ignore_index", None)

    def function(x):
        return cross_entropy(x, y, **setting)

    assert gradcheck(
        function, leaf(N, C), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(function, leaf(N, C), check_fwd_over_rev=True, check_rev_over_rev=True)


@every_reduction
def test_gradients_of_everything_else(reduction):
    y, w, s = probabilities(N, C).requires_grad_(), W.clone().requires_grad_(), S.clone().requires_grad_()

    def function(x, y, w, s):
        return cross_entropy(x, y, w, reduction=reduction, label_smoothing=0.1, z_loss=0.1, sample_weight=s)

    assert gradcheck(function, (leaf(N, C), y, w, s))
    assert gradgradcheck(function, (leaf(N, C), y, w, s))
    x = leaf(N, C)
    for ours, theirs in zip(
        *(torch.autograd.grad(f(x, y, w).sum(), (x, y, w)) for f in (cross_entropy, F.cross_entropy)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_weights_of_classes_have_no_gradient_as_in_pytorch():
    w = W.clone().requires_grad_()
    for f in (cross_entropy, F.cross_entropy):
        with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
            f(leaf(N, C), classes(N), w)


def test_create_graph_beside_a_plain_backward():
    x, y = leaf(N, C), classes(N)
    loss = cross_entropy(x, y, label_smoothing=0.1)
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(first.detach(), gradient(F.cross_entropy, x, y, label_smoothing=0.1))
    (second,) = torch.autograd.grad(first.square().sum(), x, retain_graph=True)
    theirs = torch.autograd.grad(F.cross_entropy(x, y, label_smoothing=0.1), x, create_graph=True)[0]
    torch.testing.assert_close(second, torch.autograd.grad(theirs.square().sum(), x)[0])
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], first.detach())


def test_create_graph_under_autocast():
    x, y = torch.randn(N, C, dtype=torch.bfloat16).requires_grad_(), classes(N)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = cross_entropy(x, y, W.bfloat16()), F.cross_entropy(x, y, W.bfloat16())
    assert ours.dtype is torch.float32
    grads = [torch.autograd.grad(loss, x, create_graph=True)[0] for loss in (ours, theirs)]
    seconds = [torch.autograd.grad(g.square().sum(), x)[0] for g in grads]
    torch.testing.assert_close(*seconds, rtol=0.05, atol=1e-3)


TRANSFORMS = {
    "grad": lambda f, x, y: torch.func.grad(lambda a: f(a, y))(x),
    "grad_and_value": lambda f, x, y: torch.func.grad_and_value(lambda a: f(a, y))(x),
    "vmap": lambda f, x, y: torch.func.vmap(f)(x, y),
    "vmap over rows": lambda f, x, y: torch.func.vmap(lambda a, b: f(a.unsqueeze(0), b.unsqueeze(0)))(x, y),
    "per-sample gradients": lambda f, x, y: torch.func.vmap(torch.func.grad(f))(x, y),
    "jacrev": lambda f, x, y: torch.func.jacrev(lambda a: f(a, y, reduction="none"))(x),
    "jacfwd": lambda f, x, y: torch.func.jacfwd(lambda a: f(a, y, reduction="none"))(x),
    "hessian": lambda f, x, y: torch.func.hessian(lambda a: f(a, y, label_smoothing=0.1))(x),
    "jvp": lambda f, x, y: torch.func.jvp(lambda a: f(a, y), (x,), (torch.ones_like(x),)),
    "linearize": lambda f, x, y: torch.func.vjp(lambda a: f(a, y), x)[1](torch.tensor(2.0, dtype=x.dtype)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms(transform):
    x, y = leaf(N, C).detach(), classes(N)
    torch.testing.assert_close(transform(cross_entropy, x, y), transform(F.cross_entropy, x, y))


def test_forward_mode():
    x, y, tangent = leaf(N, C).detach(), classes(N), torch.randn(N, C, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        ours, theirs = (forward_ad.unpack_dual(f(dual, y)) for f in (cross_entropy, F.cross_entropy))
    torch.testing.assert_close(ours.tangent, theirs.tangent)


# What is kept between -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [False, True])
@every_reduction
def test_activation_checkpointing(use_reentrant, reduction):
    h, y = leaf(N, 3), classes(N)
    layer = torch.nn.Linear(3, C, dtype=torch.float64)

    def head(function, h):
        return function(layer(h), y, reduction=reduction).sum()

    ours = checkpoint(head, cross_entropy, h, use_reentrant=use_reentrant)
    inputs = (h, layer.weight, layer.bias)
    wanted = torch.autograd.grad(head(F.cross_entropy, h), inputs)
    ours.backward()
    for tensor, grad in zip(inputs, wanted, strict=True):
        torch.testing.assert_close(tensor.grad, grad)


def test_checkpoints_keep_nothing_of_the_size_of_the_logits(solved):
    kept = []
    x, y = leaf(N, C), classes(N)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or len(kept) - 1, lambda i: kept[i]):
        loss = cross_entropy(x, y)
    assert solved == [False]  # the gradient waits
    assert all("grad" not in node.__dict__ for node in [loss.grad_fn])
    loss.backward()
    torch.testing.assert_close(x.grad, gradient(F.cross_entropy, x, y))


def test_saved_on_cpu_and_selective_checkpoints():
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    x, y = leaf(N, C), classes(N)
    wanted = gradient(F.cross_entropy, x, y)
    with torch.autograd.graph.save_on_cpu():
        loss = cross_entropy(1 * x, y)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], wanted)
    for policy in (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE):

        def contexts(policy=policy):
            return create_selective_checkpoint_contexts(lambda *args, **kwargs: policy)

        loss = checkpoint(lambda a: cross_entropy(1 * a, y), x, use_reentrant=False, context_fn=contexts)
        torch.testing.assert_close(torch.autograd.grad(loss, x)[0], wanted)


# In place -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@every_reduction
@pytest.mark.parametrize("kind", ["leaf", "result", "view", "strided"])
def test_in_place(dtype, reduction, kind):
    h, y = leaf(N, C, dtype=dtype), classes(N)
    wanted = gradient(lambda a: 0.5 * cross_entropy(a, y, reduction=reduction).sum(), h)
    make = {
        "leaf": lambda: h,
        "result": lambda: 1 * h,
        "view": lambda: (1 * h).view(-1).view(N, C),
        "strided": lambda: (1 * h.t()).t(),
    }[kind]
    x = make()
    address = x.data_ptr()
    loss = 0.5 * cross_entropy(x, y, reduction=reduction, inplace=True).sum()
    grads = []
    if kind != "leaf":
        loss.grad_fn.next_functions[0][0].register_prehook(lambda g: None)
        node = loss.grad_fn
        while "_Fused" not in type(node).__name__:
            node = node.next_functions[0][0]
        node.register_hook(lambda inputs, outputs: grads.append(inputs[0]))
    loss.backward()
    torch.testing.assert_close(h.grad, wanted, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=0)
    assert (h.grad if kind == "leaf" else grads[0]).data_ptr() == address


USES = {
    "+": lambda x: x + 1,
    "sum": lambda x: x.sum(),
    "softmax": lambda x: torch.softmax(x, 1),
    "argmax": lambda x: x.argmax(1),
    "loss": lambda x: cross_entropy(x, classes(N)),
    "PyTorch's loss": lambda x: F.cross_entropy(x, classes(N)),
    "print": repr,
    "numpy": lambda x: x.detach().numpy(),
    "array": lambda x: x.__array__(),
    "view": lambda x: x.view(-1),
    "index": lambda x: x[0],
    "data": lambda x: x.data,
    "item": lambda x: x.tolist(),
    "write": lambda x: x.mul_(2),
    "matrix product": lambda x: torch.eye(N) @ x,
    "clone": lambda x: x.clone(),
    "save": lambda x: torch.save(x, io.BytesIO()),
    "pointer": lambda x: x.data_ptr(),
    "dlpack": lambda x: x.__dlpack__(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_spent_logits_cannot_be_used(use):
    h = leaf(N, C, dtype=torch.float32)
    x = (1 * h).view(N, C)
    base = x._base
    loss = cross_entropy(x, classes(N), inplace=True)
    for spent in (x, base):
        with pytest.raises(RuntimeError, match="these logits are no more"):
            use(spent)
    loss.backward()
    assert x.shape == (N, C)
    assert x.dtype is torch.float32


HOLDERS = {
    "a view": lambda x: x.view(-1),
    "a detached tensor": lambda x: x.detach(),
    "NumPy": lambda x: x.detach().numpy(),
    "a part": lambda x: x[1:],
    "a function that saved its result": None,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_in_place_is_refused_where_others_see_the_memory(hold):
    h, y = leaf(N, C, dtype=torch.float32), classes(N)
    x = h.exp() if hold is None else 1 * h
    before = x.detach().clone()
    holder = None if hold is None else hold(x)
    with pytest.raises(RuntimeError, match=r"inplace=True: the memory of the logits is also that of 1 other"):
        cross_entropy(x, y, inplace=True)
    assert torch.equal(x, before)
    del holder
    if hold is not None:
        cross_entropy(x, y, inplace=True).backward()


def test_a_function_that_saved_the_logits_themselves_raises():
    h, y = leaf(N, C), classes(N)
    x = 1 * h
    square = (x * x).sum()
    loss = cross_entropy(x, y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (square + loss).backward()


@every_reduction
def test_in_place_runs_back_once(reduction):
    h, y = leaf(N, C), classes(N)
    loss = cross_entropy(1 * h, y, reduction=reduction, inplace=True).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward can run once"):
        loss.backward()
    loss = cross_entropy(1 * h, y, reduction=reduction, inplace=True).sum()
    with pytest.raises(RuntimeError, match="its logits are gone"):
        torch.autograd.grad(loss, h, create_graph=True)


def test_bad_targets_leave_the_logits_alone():
    x = leaf(N, C)
    before = x.detach().clone()
    with pytest.raises(IndexError, match="neither a class"):
        cross_entropy(x, classes(N) + C, inplace=True)
    assert torch.equal(x, before)
    assert type(x) is torch.Tensor
