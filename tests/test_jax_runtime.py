"""fastce.jax beside threads, devices, signals, forks and the end of Python: each in a process of its own.

What could go wrong here ends the process or leaves it hanging, so every process ends itself after a while.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_python

pytest.importorskip("jax")

ROOT = Path(__file__).parent.parent
START = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(300, exit=True)
import jax, jax.numpy as jnp, numpy as np
import fastce
from fastce.jax import cross_entropy
rng = np.random.default_rng(0)
def inputs(n_rows, n_classes):
    return rng.standard_normal((n_rows, n_classes), np.float32), rng.integers(0, n_classes, n_rows).astype(np.int32)
value_and_grad = jax.jit(jax.value_and_grad(cross_entropy))
def right(found, x, y):
    want = fastce.cross_entropy_with_grad(x, y)
    return np.asarray(found[0]) == want.loss and np.asarray(found[1]).tobytes() == want.grad.tobytes()
"""


def run(program, **environment):
    return run_python(START + program, **environment)


def test_many_threads_and_calls_in_flight():
    program = """
batches = [inputs(n, 1000) for n in (1, 33, 1024)]
wrong = []
def work(k):
    for i in range(20):
        x, y = batches[(i + k) % 3]
        found = value_and_grad(x, y)
        sum(range(1000 * k))  # Python keeps its lock while XLA computes
        if not right(found, x, y):
            wrong.append((k, i))
threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
for thread in threads:
    thread.start()
in_flight = [value_and_grad(*batches[2]) for _ in range(30)]
sum(range(1_000_000))
print(len(wrong), all(right(found, *batches[2]) for found in in_flight))
for thread in threads:
    thread.join()
print(len(wrong))
"""
    assert run(program) == ["0", "True", "0"]


def test_several_devices():
    program = """
x, y = inputs(256, 500)
w = np.linspace(1, 1, 500, dtype=np.float32)  # the same on all devices
def step(x, y):
    loss, grad = jax.value_and_grad(cross_entropy)(x, y, weight=w)
    return jax.lax.pmean(loss, "device"), grad / 2
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("device",))
rows = jax.sharding.PartitionSpec("device")
everywhere = jax.sharding.PartitionSpec()
specs = {"in_specs": (rows, rows), "out_specs": (everywhere, rows)}
on_each = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs))
mapped = jax.pmap(step, axis_name="device")
want = fastce.cross_entropy_with_grad(x, y)
def close(loss, grad):
    return np.allclose(loss, want.loss, rtol=1e-6) and np.allclose(grad, want.grad, rtol=1e-6, atol=1e-10)
print(len(jax.devices()))
for _ in range(20):  # one at a time: JAX itself hangs where collectives of several steps wait for few threads
    loss, grad = jax.block_until_ready(mapped(x.reshape(2, 128, 500), y.reshape(2, 128)))
    assert close(loss[0], grad.reshape(256, 500))
    assert close(*jax.block_until_ready(on_each(x, y)))
sharded = jax.device_put((x, y), jax.sharding.NamedSharding(mesh, rows))
loss, grad = value_and_grad(*sharded)
assert close(loss, grad)
print("ok")
"""
    assert run(program, XLA_FLAGS="--xla_force_host_platform_device_count=2") == ["2", "ok"]


@pytest.mark.parametrize("end", ["", "del results", "sys.exit(0)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_python_ends_while_xla_computes(end):
    if "SIGTERM" in end:
        end = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); " + end
    program = f"""
x, y = inputs(2048, 1000)
many = jax.jit(lambda x, y: jax.lax.fori_loop(0, 20, lambda i, c: c + cross_entropy(x + c, y), 0.0))
many(x, y).block_until_ready()
results = [many(x, y) for _ in range(10)]
print(results[-1].is_ready())
{end}
"""
    assert run(program) == ["False"]


def test_what_is_to_be_seen_is_seen_before_python_ends():
    program = """
x, y = inputs(2048, 1000)
@jax.jit
def last(x, y):
    jax.debug.print("{}", jax.lax.fori_loop(0, 20, lambda i, c: cross_entropy(x, y), 0.0).round(3))
last(x, y)
"""
    assert len(run(program)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c():
    program = """
x, y = inputs(1024, 1000)
many = jax.jit(lambda x, y: jax.lax.fori_loop(0, 300, lambda i, c: c + cross_entropy(x + c, y), 0.0))
want = fastce.cross_entropy(x, y)
cross_entropy(x, y), many(x, y).block_until_ready()
seen = []
for delay in (0.01, 0.02, 0.05, 0.1, 0.15):
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            many(x, y).block_until_ready()
    except BaseException as error:
        seen.append(type(error).__name__)
    timer.join()
print(*seen, cross_entropy(x, y) == want)
"""
    assert run(program) == ["KeyboardInterrupt"] * 5 + ["True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_child_computes_with_numpy():
    program = """
import warnings
warnings.simplefilter("ignore")  # JAX warns of every fork
x, y = inputs(512, 1000)
found = tuple(map(np.asarray, value_and_grad(x, y)))  # JAX itself cannot be used in the child
pid = os.fork()
if pid == 0:
    os._exit(7 * bool(right(found, x, y)))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), right(value_and_grad(x, y), x, y))
"""
    assert run(program) == ["7", "True"]


def test_kernels_are_compiled_while_jax_traces():
    program = """
import numba.core.event
x, y = inputs(64, 100)
jax.block_until_ready(jnp.asarray(x))
with numba.core.event.install_recorder("numba:compile") as recorder:
    traced = jax.jit(jax.value_and_grad(cross_entropy)).trace(x, y)
loaded = fastce.kernels.cpu.kernels.__name__ in sys.modules
compiled = traced.lower().compile()
with numba.core.event.install_recorder("numba:compile") as recorder:
    jax.block_until_ready(compiled(x, y))
print(loaded, len(recorder.buffer))
"""
    assert run(program) == ["True", "0"]


def test_programs_that_xla_keeps_on_disk(tmp_path):
    program = """
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
x, y = inputs(32, 10)
print(right(value_and_grad(x, y), x, y))
"""
    for _ in range(2):
        assert run(program, JAX_COMPILATION_CACHE_DIR=str(tmp_path)) == ["True"]
        assert list(tmp_path.iterdir())


def test_without_jax_the_error_names_it():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['jax'] = None; import fastce.jax"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "import of jax halted" in done.stderr
