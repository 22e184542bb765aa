"""What the loss for PyTorch allocates, and the threads and processes it is used in."""

import os
import subprocess
import sys
import threading

import numba
import pytest
from conftest import run_python

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

import fastce.torch
from fastce.bench import memory
from fastce.torch import cross_entropy, solve

linux = pytest.mark.skipif(not memory.available(), reason="only Linux tells the peak of a process's memory")

GROWTH = """
import torch
from fastce.bench import memory
from fastce.torch import cross_entropy
torch.manual_seed(0)
n, c = 512, 32000
x, y = torch.randn(n, c).to(torch.{dtype}), torch.randint(c, (n,))
def step(n, options):
    logits = x[:n].clone().requires_grad_()
    before = memory.kilobytes("VmRSS")
    memory.RESET.write_text("5", encoding="ascii")
    loss = cross_entropy(logits, y[:n], **options).sum()
    loss.backward()
    return 1024 * (memory.kilobytes("VmHWM") - before), logits.grad
for options in {settings}:
    step(8, options)  # compiles
    step(200, options)
    grown, grad = step(n, options)
    print(grown, grad.nbytes)
    del grad
"""


@linux
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_peak_memory(dtype):
    """Of loss and backward: the gradient, and less than 1% of the logits beyond (and half a MiB of Python's)."""
    settings = [{}, {"reduction": "none"}, {"label_smoothing": 0.1, "z_loss": 0.1}, {"inplace": True}]
    # (without what is kept of an earlier gradient, so that each is seen)
    program = GROWTH.format(dtype=dtype, settings=settings)
    found = map(int, run_python(program, FASTCE_SPARE_BYTES="0", **memory.ENVIRONMENT))
    for options, grown, size in zip(settings, found, found, strict=True):
        beyond = grown if options.get("inplace") else grown - size
        assert beyond <= 0.01 * size + (1 << 19), options
        assert beyond > -0.05 * size, options  # seen at all


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_of_the_size_of_the_logits_is_allocated_but_the_gradient(dtype, monkeypatch):
    """Counted where memory is given out, by PyTorch, by NumPy and by fastce."""
    from torch.profiler import ProfilerActivity, profile

    import fastce.memory

    given, original = [], fastce.memory.empty
    monkeypatch.setattr(fastce.memory, "empty", lambda *a: given.append(original(*a)) or given[-1])
    x, y = torch.randn(64, 50_000, dtype=dtype).requires_grad_(), torch.randint(50_000, (64,))
    cross_entropy(x, y).backward()
    given.clear()
    x.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        cross_entropy(x, y).backward()
    large = [e.self_cpu_memory_usage for e in profiled.events() if abs(e.self_cpu_memory_usage) > 0.01 * x.nbytes]
    assert len(given) + len(large) == 1
    assert sum(a.nbytes for a in given) + sum(large) == x.nbytes


def test_logits_are_read_where_they_are():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.randn(3, 8, 2, dtype=dtype)[:, ::2].requires_grad_()
        array = solve.array_of(x)
        assert array.__array_interface__["data"][0] == x.data_ptr()
        assert array.strides == tuple(s * x.itemsize for s in x.stride())


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads_used(monkeypatch):
    """How many of Numba's threads each call may use."""
    used = []

    def observed(*args):
        used.append(numba.get_num_threads())
        return original(*args)

    original = solve._solve_on_cpu
    monkeypatch.setattr(solve, "_solve_on_cpu", observed)
    before = torch.get_num_threads()
    yield used
    torch.set_num_threads(before)


def test_no_more_threads_than_pytorch_may_use(threads_used):
    x, y = torch.randn(300, 1000), torch.randint(1000, (300,))
    before = numba.get_num_threads()
    losses = []
    for n in (1, before, before + 5):
        torch.set_num_threads(n)
        losses.append(cross_entropy(x, y))
        assert numba.get_num_threads() == before
    assert threads_used == [1, before, before]
    assert losses[0] == losses[1] == losses[2]
    numba.set_num_threads(1)
    try:
        cross_entropy(x, y)
    finally:
        numba.set_num_threads(before)
    assert threads_used[-1] == 1
    torch.set_num_threads(1)
    with pytest.raises(IndexError):
        cross_entropy(x, y + 1000)
    assert numba.get_num_threads() == before


def test_several_python_threads():
    torch.manual_seed(0)
    x, y = torch.randn(300, 1000), torch.randint(1000, (300,))
    wanted = x.clone().requires_grad_()
    cross_entropy(wanted, y).backward()
    failures = []

    def work():
        for _ in range(20):
            logits = x.clone().requires_grad_()
            cross_entropy(logits, y).backward()
            if not torch.equal(logits.grad, wanted.grad):
                failures.append(logits)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


WORKERS = """
import warnings
warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads, which is what this is about
import torch
from torch.utils.data import DataLoader, Dataset
from fastce.torch import cross_entropy
torch.manual_seed(0)
x, y = torch.randn(300, 1000), torch.randint(1000, (300,))
logits = x.clone().requires_grad_()
loss = cross_entropy(logits, y)
loss.backward()
class Losses(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        given = x.clone().requires_grad_()
        cross_entropy(given, y).backward()
        return torch.equal(given.grad, logits.grad)
for _ in range(2):
    found = [bool(b) for b in DataLoader(Losses(), batch_size=None, num_workers=2, multiprocessing_context="fork")]
    assert found == [True] * 8
    assert torch.equal(cross_entropy(x, y), loss.detach())
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("layer", ["default", "omp", "workqueue"])
def test_workers_of_a_dataloader_that_are_forked(layer):
    if layer == "omp" and sys.platform != "linux":
        pytest.skip("Numba has OpenMP on Linux alone")
    environment = {} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}
    assert run_python(WORKERS, **environment) == ["done"]


POLICY = """
import os
import torch
import fastce.torch
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU OpenMP spins, and only Linux has it here")
@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "active"}], ids=["nothing said", "active"])
def test_numbas_idle_threads_sleep_unless_somebody_wants_them_awake(said):
    environment = {k: v for k, v in os.environ.items() if k not in fastce.torch.pools._SAID}
    done = subprocess.run(
        [sys.executable, "-c", POLICY],
        env={**environment, **said, "OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.split() == [said.get("OMP_WAIT_POLICY", "None")], done.stderr
    if said:
        return
    spins = [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if len(spins) < 2:
        pytest.skip("Numba's OpenMP is PyTorch's own here, or is not there")
    assert spins[-1] == "0"
    assert spins[0] != "0"  # PyTorch's own
