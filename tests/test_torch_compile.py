"""The loss for PyTorch as an operator: torch.compile, torch.export, dispatch modes, autocast."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from torch.nn import functional as F

from fastce.torch import CrossEntropyLoss, cross_entropy

# (of PyTorch's own, where it compiles)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

N, C = 6, 5
OPTIONS = {
    "plain": {},
    "sum, weights": {"reduction": "sum", "weight": torch.rand(C)},
    "none": {"reduction": "none", "label_smoothing": 0.1},
    "everything": {
        "weight": torch.rand(C), "sample_weight": torch.rand(N), "z_loss": 0.1, "softcap": 3.0, "logit_scale": 0.5,
        "ignore_index": 2, "label_smoothing": 0.1, "normalizer": 2.0, "aux": ("lse", "argmax", "correct"),
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh():
    torch.manual_seed(20240229)
    torch._dynamo.reset()


def results(function, x, y, options):
    """Give loss, aux and gradient, for an upstream gradient that is not 1."""
    x = x.detach().clone().requires_grad_()
    found = function(x, y, **options)
    loss = found.loss if options.get("aux") else found
    (torch.arange(1, 1 + loss.numel(), dtype=loss.dtype).reshape(loss.shape) * loss).sum().backward()
    return [*(t for t in (found if options.get("aux") else (found,)) if t is not None), x.grad]


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_compiled(backend, options):
    x, y = torch.randn(N, C), torch.randint(C, (N,))
    compiled = torch.compile(lambda x, y, **o: cross_entropy(x, y, **o), fullgraph=True, backend=backend)
    for mine, eager in zip(results(compiled, x, y, options), results(cross_entropy, x, y, options), strict=True):
        torch.testing.assert_close(mine, eager)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_types(dtype, reduction):
    x, y = torch.randn(N, C, dtype=dtype), torch.randint(C, (N,))
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    options = {"reduction": reduction}
    for mine, eager in zip(results(compiled, x, y, options), results(cross_entropy, x, y, options), strict=True):
        assert mine.dtype is dtype
        torch.testing.assert_close(mine, eager)


def test_a_compiled_step_is_one_graph_with_one_operator():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model, criterion = torch.nn.Linear(3, C), CrossEntropyLoss(label_smoothing=0.1)
    h, y = torch.randn(N, 3), torch.randint(C, (N,))
    torch.compile(lambda h, y: criterion(model(h), y), fullgraph=True, backend=backend)(h, y)
    (graph,) = graphs
    operators = [n.target for n in graph.graph.nodes if n.op == "call_function" and "fastce" in str(n.target)]
    assert operators == [torch.ops.fastce.cross_entropy.default] or [str(o) for o in operators] == [
        "fastce.cross_entropy"
    ]
    assert not any("log_softmax" in str(n.target) for n in graph.graph.nodes)


def test_compiled_without_gradient_asks_for_none():
    wanted = []
    compiled = torch.compile(cross_entropy, fullgraph=True, backend=lambda g, _: wanted.append(g) or g)
    x, y = torch.randn(N, C), torch.randint(C, (N,))
    torch.testing.assert_close(compiled(x, y), F.cross_entropy(x, y))
    (node,) = [n for n in wanted[0].graph.nodes if "fastce" in str(n.target)]
    assert node.args[-1] is False


def test_compiled_shapes_that_vary():
    compiled = torch.compile(cross_entropy, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, c in ((3, 4), (5, 6), (70, 90)):
        x, y = torch.randn(n, c), torch.randint(c, (n,))
        for mine, other in zip(results(compiled, x, y, {}), results(F.cross_entropy, x, y, {}), strict=True):
            torch.testing.assert_close(mine, other)


def test_compiled_what_the_kernels_do_not_take():
    q, w = torch.rand(N, C).requires_grad_(), torch.rand(C).requires_grad_()
    x = torch.randn(N, C)
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, q, w), F.cross_entropy(x, q, w))


def test_compiled_under_autocast():
    x, y = torch.randn(N, C).bfloat16().requires_grad_(), torch.randint(C, (N,))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(x, y)

    loss = step(x, y)
    assert loss.dtype is torch.float32
    loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(x.float(), y))
    assert x.grad.dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_grad", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_operator_is_what_it_says(dtype, with_grad, reduction):
    """Schema, fake implementation and autograd, as PyTorch checks them."""
    for shape in ((N, C), (2, C, 3), (C,)):
        x = torch.randn(shape, dtype=dtype).requires_grad_(with_grad)
        y = torch.randint(C, shape[:1] + shape[2:] if len(shape) > 1 else ())
        for aux in ("", "lse argmax correct"):
            arguments = (x, y, None, None, -100, reduction, 0.1, 0.0, None, 1.0, None, aux, with_grad)
            torch.library.opcheck(torch.ops.fastce.cross_entropy.default, arguments)


def test_exported():
    class Model(torch.nn.Module):
        def forward(self, x, y):
            return cross_entropy(x, y)

    x, y = torch.randn(N, C), torch.randint(C, (N,))
    exported = torch.export.export(Model(), (x, y))
    assert "fastce" in str(exported.graph)
    torch.testing.assert_close(exported.module()(x, y), F.cross_entropy(x, y))


def test_fake_tensors_and_modes():
    from torch._subclasses import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode():
        loss = cross_entropy(torch.empty(N, C, requires_grad=True), torch.empty(N, dtype=torch.long))
    assert loss.shape == ()
    x, y = torch.randn(N, C).requires_grad_(), torch.randint(C, (N,))
    with FlopCounterMode(display=False):
        loss = cross_entropy(x, y)
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    theirs = torch.autograd.grad(F.cross_entropy(x, y), x, create_graph=True)[0]
    torch.testing.assert_close(grad, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(g.square().sum(), x)[0] for g in (grad, theirs)))


def test_tensors_of_a_subclass():
    seen = []

    class Named(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    x, y = torch.randn(N, C), torch.randint(C, (N,))
    loss = cross_entropy(x.as_subclass(Named), y)
    assert seen[0] is cross_entropy
    assert isinstance(loss, Named)
    torch.testing.assert_close(loss.as_subclass(torch.Tensor), F.cross_entropy(x, y))
    with torch.device("cpu"):  # a mode that sees every function
        torch.testing.assert_close(cross_entropy(x, y), F.cross_entropy(x, y))
