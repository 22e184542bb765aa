"""Many threads, forked children, numbers of threads, Ctrl-C and the kernels on disk: each in a process of its own.

What could go wrong here ends the process or leaves it hanging. So every process ends itself after a while, and what it
must have computed, bit for bit, it reads from a file that one thread has written.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numba
import numpy as np
import pytest
from conftest import assert_grad, assert_loss, oracle

import fastce
from fastce.kernels.cpu import launch, plain
from fastce.kernels.cpu.entry import OF_TYPE, TYPES, WORK
from fastce.kernels.cpu.regimes import FEW, LANES, LOOK, REGIMES, ROWS, regime_of

ROOT = Path(__file__).parent.parent
SECONDS = 600  # until a process that hangs is ended; compiling takes a minute, on a busy machine several
LAYERS = ("tbb", "omp", "workqueue")

# Regime of the kernels: rows and classes. All but "small" are shared by the threads, some with unequal parts.
SHAPES = {"small": (32, 10), "narrow": (10_007, 10), "rows": (101, 1003), "wide": (3, 50_001), "one row": (1, 100_003)}
OPTIONS = {  # that take the short way, and the long one: a list is not plain
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 20.0, "aux": ["lse", "entropy"]},
}

PROCESS = """
import os, signal, sys, threading, time
if hasattr(signal, "alarm"):
    signal.alarm(SECONDS)
import numpy as np
import fastce
IMPORTS
def inputs(name):
    n_rows, n_classes = SHAPES[name]
    rng = np.random.default_rng(n_classes)
    return 3 * rng.standard_normal((n_rows, n_classes), np.float32), rng.integers(0, n_classes, n_rows)

def answers(name, options, in_place=False):
    logits, targets = inputs(name)
    out = logits if in_place else None
    result = fastce.cross_entropy_with_grad(logits, targets, reduction="none", grad_out=out, **OPTIONS[options])
    return {field: value for field, value in result._asdict().items() if value is not None}

def is_right(expected, name, options="plain", in_place=False):
    found = answers(name, options, in_place)
    return all(value.tobytes() == expected[f"{name}/{options}/{field}"].tobytes() for field, value in found.items())

def wrong(expected, in_place=(False, True)):
    return [(n, o, p) for n in SHAPES for o in OPTIONS for p in in_place if not is_right(expected, n, o, p)]

def in_child(function):  # the status of a forked child that calls the function: 0 if that gives something true
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(SECONDS)  # children do not inherit it
            status = 0 if function() else 2
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]

def load():
    with np.load(sys.argv[1]) as file:
        return dict(file)
"""
PROCESS = PROCESS.replace("(SECONDS)", f"({SECONDS})") + f"SHAPES, OPTIONS = {SHAPES}, {OPTIONS}\n"
IMPORTS = "import numba; from fastce.kernels.cpu import threads"  # which the first call would do

# Python warns of every fork of a process with threads, which is what is tested here.
WARNINGS = ("-Werror", "-Wignore:This process:DeprecationWarning")


def command(code, *arguments, imports=IMPORTS):
    return [sys.executable, *WARNINGS, "-c", PROCESS.replace("IMPORTS", imports) + code, *map(str, arguments)]


def environment(layer=None, n_threads=None, **others):
    """Give the environment of a process with that threading layer and that number of threads."""
    env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_THREADING_LAYER", "NUMBA_NUM_THREADS")}
    if layer is not None:
        env["NUMBA_THREADING_LAYER"] = layer
    if n_threads is not None:
        env["NUMBA_NUM_THREADS"] = str(n_threads)
    if layer == "tbb":  # pip puts the library where the system's loader does not look
        env["LD_LIBRARY_PATH"] = os.pathsep.join(
            filter(None, [str(Path(sysconfig.get_path("data")) / "lib"), env.get("LD_LIBRARY_PATH")])
        )
    return {**env, **others}


def run(code, *arguments, imports=IMPORTS, cwd=ROOT, complaint="", **env):
    """Give what the code prints, in a process that must end well and say nothing else but that complaint."""
    done = subprocess.run(
        command(code, *arguments, imports=imports),
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr in ("", complaint)
    return done.stdout


@functools.cache
def why_not(layer):
    """Why this threading layer is not there; None if it is."""
    code = "import numba; numba.get_num_threads(); assert numba.threading_layer() == " + repr(layer)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(layer),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr.strip()


@pytest.fixture(params=LAYERS)
def layer(request):
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(f"threading layer {request.param} is not there: {reason[-200:]}")
    return request.param


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Give the file of the answers of one thread. Every kernel has been compiled then."""
    path = tmp_path_factory.mktemp("threads") / "expected.npz"
    code = """
assert threads.available() == 1
found = {(n, o): answers(n, o) for n in SHAPES for o in OPTIONS}
found = {f"{n}/{o}/{field}": value for (n, o), a in found.items() for field, value in a.items()}
found |= {f"{n}/{a}": value for n in SHAPES for a, value in zip(("logits", "targets"), inputs(n))}
np.savez(sys.argv[1], **found)
"""
    run(code, path, n_threads=1)
    run("assert not wrong(load())", path, n_threads=2)
    return path


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
needs_signals = pytest.mark.skipif(os.name == "nt", reason="this system cannot send Ctrl-C to one process")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_expected_answers_are_right(expected, name, options):
    with np.load(expected) as found:
        logits, targets = found[f"{name}/logits"], found[f"{name}/targets"]
        right = oracle(fastce.cross_entropy_with_grad, logits, targets, reduction="none", **OPTIONS[options])
        assert_loss(found[f"{name}/{options}/loss"], right.loss, largest_logit=20.0)
        assert_grad(found[f"{name}/{options}/grad"], right.grad, largest_logit=20.0, terms=1.0)


# -- many Python threads -----------------------------------------------------------------------------------------------

MANY = """
expected, bad, start = load(), [], threading.Barrier(8)
def call(i):
    try:
        start.wait()
        for k in range(6):
            for name in (list(SHAPES) * 2)[i % len(SHAPES):][:len(SHAPES)]:
                if not is_right(expected, name, in_place=bool(k % 2)):
                    bad.append(name)
    except BaseException as error:
        bad.append(error)
workers = [threading.Thread(target=call, args=[i]) for i in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert not bad, bad
"""


def test_many_threads_at_once(layer, expected):
    # nothing has been computed before in this process: the first calls come all at once, too
    run(MANY + "print(numba.threading_layer())", expected, layer=layer, n_threads=4)


def test_many_threads_at_once_after_the_first_call(layer, expected):
    run("assert is_right(load(), 'rows')" + MANY, expected, layer=layer, n_threads=4)


def test_threads_with_numbers_of_threads_of_their_own(layer, expected):
    code = """
expected, found = load(), {}
def call(n):
    numba.set_num_threads(n)
    found[n] = (wrong(expected), threads.available())
workers = [threading.Thread(target=call, args=[n]) for n in (1, 2, 3)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert found == {n: ([], n) for n in (1, 2, 3)}, found
"""
    run(code, expected, layer=layer, n_threads=4)


# -- forked children ---------------------------------------------------------------------------------------------------


@needs_fork
def test_fork_after_computing_in_parallel(layer, expected):
    code = """
expected = load()
assert threads.available() > 1 and not wrong(expected) and numba.threading_layer() == sys.argv[2]
for _ in range(2):
    assert in_child(lambda: not wrong(expected)) == 0
    assert not wrong(expected)
assert in_child(lambda: in_child(lambda: not wrong(expected)) == 0 and not wrong(expected)) == 0
"""
    run(code, expected, layer, layer=layer, n_threads=2)


@needs_fork
def test_fork_before_computing(layer, expected):
    code = """
expected = load()
assert in_child(lambda: threads.available() > 1 and not wrong(expected)) == 0
assert threads.available() > 1 and not wrong(expected)
"""
    run(code, expected, layer=layer, n_threads=2)


@needs_fork
def test_fork_after_somebody_else_used_the_threads(layer, expected):
    code = """
@numba.njit(parallel=True)
def somebody_else(x):
    for i in numba.prange(len(x)):
        x[i] += 1
somebody_else(np.zeros(1000))
expected = load()
assert in_child(lambda: not wrong(expected)) == 0
assert not wrong(expected)
"""
    run(code, expected, layer=layer, n_threads=2)


@needs_fork
def test_fork_while_another_thread_is_inside_a_call(layer, expected):
    code = """
expected, stop, bad, calls = load(), threading.Event(), [], []
assert is_right(expected, "small") and is_right(expected, "wide")
def call():
    while not stop.is_set():
        calls.append(1)
        bad.extend(n for n in ("narrow", "rows", "wide") if not is_right(expected, n))
worker = threading.Thread(target=call)
worker.start()
statuses = [in_child(lambda: not wrong(expected, in_place=[False])) for _ in range(8)]
assert worker.is_alive()
stop.set()
worker.join()
assert calls and not bad and not any(statuses), (len(calls), bad, statuses)
assert not wrong(expected)
"""
    run(code, expected, layer=layer, n_threads=2)


# Numba's own word on its threads, which are not used in the child.
NOT_MAIN = (
    "Numba: Attempted to fork from a non-main thread, "
    "the TBB library may be in an invalid state in the child process."
    "\n"
)


@needs_fork
def test_fork_from_a_thread_that_is_not_the_first(layer, expected):
    code = """
expected, statuses = load(), []
assert not wrong(expected)
worker = threading.Thread(target=lambda: statuses.append(in_child(lambda: not wrong(expected))))
worker.start()
worker.join()
assert statuses == [0] and not wrong(expected)
"""
    run(code, expected, layer=layer, n_threads=2, complaint=NOT_MAIN)


@needs_fork
def test_pool_of_forked_processes(layer, expected):
    code = """
import multiprocessing
expected = load()
assert not wrong(expected)
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert all(pool.starmap(is_right, [(expected, name) for name in SHAPES] * 3))
assert not wrong(expected)
"""
    run(code, expected, layer=layer, n_threads=2)


# Other threads in the first call of the process when it forks: importing the kernels, or compiling. What is slow is
# made slower, so that the fork comes right then.

SLOW_IMPORT = """
expected = load()
inside = threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "fastce.kernels.cpu.launch":
            inside.set()
            time.sleep(1)
sys.meta_path.insert(0, Slow())
"""


@needs_fork
@pytest.mark.parametrize("name", ["small", "rows"])
def test_fork_while_another_thread_imports_the_kernels(expected, name):
    # (`small` goes a way of its own to the kernels)
    code = """
worker = threading.Thread(target=is_right, args=[expected, sys.argv[2]])
worker.start()
inside.wait()
status = in_child(lambda: is_right(expected, sys.argv[2]) and is_right(expected, "wide"))
worker.join()
assert status == 0
"""
    run(SLOW_IMPORT + code, expected, name, imports="")


@needs_fork
def test_fork_from_inside_the_import_of_the_kernels(expected):
    code = """
expected, statuses = load(), []
class Forks:
    def find_spec(self, name, path=None, target=None):
        if name == "fastce.kernels.cpu.launch" and not statuses:
            statuses.append(None)
            pid = os.fork()
            if pid == 0:
                statuses[:] = ["child"]  # and goes on, as the parent does
            else:
                statuses[:] = [os.waitpid(pid, 0)[1]]
sys.meta_path.insert(0, Forks())
right = not wrong(expected)
if statuses == ["child"]:
    os._exit(0 if right else 3)
assert right and statuses == [0], statuses
assert in_child(lambda: not wrong(expected)) == 0
"""
    run(code, expected, imports="")


SLOW_COMPILER = """
from numba.core import event
compiling = threading.Event()
class Slow(event.Listener):
    def on_start(self, event):
        if not compiling.is_set():
            compiling.set()
            time.sleep(1)
    def on_end(self, event):
        pass
event.register("numba:run_pass", Slow())
@numba.njit
def somebody_else(x):
    return x + 1
"""


@needs_fork
@pytest.mark.parametrize("before", [True, False])
def test_fork_while_another_thread_compiles(layer, expected, before):
    code = """
expected = load()
if len(sys.argv) > 2:
    assert not wrong(expected)
worker = threading.Thread(target=somebody_else, args=[1])
worker.start()
compiling.wait()
def child():
    grandchild = in_child(lambda: somebody_else(1) == 2 and not wrong(expected))
    return grandchild == 0 and not wrong(expected) and somebody_else(1) == 2
assert in_child(child) == 0
worker.join()
assert somebody_else.signatures and not wrong(expected)
"""
    run(SLOW_COMPILER + code, expected, *["before"] * before, layer=layer, n_threads=2)


@needs_fork
def test_fork_from_the_thread_that_compiles(expected):
    code = """
from numba.core import event
expected, statuses = load(), []
class Forks(event.Listener):
    def on_start(self, event):
        if not statuses:
            statuses.append(None)
            statuses[0] = in_child(lambda: not wrong(expected))
    def on_end(self, event):
        pass
event.register("numba:run_pass", Forks())
@numba.njit
def somebody_else(x):
    return x + 1
assert somebody_else(1) == 2 and statuses == [0]
worker = threading.Thread(target=statuses.append, args=[1])  # a thread more, now that locks have come and gone
worker.start()
worker.join()
assert in_child(lambda: not wrong(expected)) == 0 and not wrong(expected)
"""
    run(code, expected, n_threads=2)


@needs_fork
def test_fork_while_another_thread_starts_the_threads(layer, expected):
    code = """
from numba.np.ufunc import parallel
expected, inside = load(), threading.Event()
parallel._set_init_process_lock()
def start():
    with parallel._backend_init_process_lock:  # as `get_num_threads` does
        inside.set()
        time.sleep(1)
        numba.get_num_threads()
worker = threading.Thread(target=start)
worker.start()
inside.wait()
statuses = [in_child(lambda: is_right(expected, "rows") and is_right(expected, "wide")) for _ in range(2)]
worker.join()
assert statuses == [0, 0] and not wrong(expected)
"""
    run(code, expected, layer=layer, n_threads=2, complaint=NOT_MAIN)  # "main" is for TBB who started the threads


@needs_fork
def test_forks_from_many_threads_while_others_call_for_the_first_time(expected):
    code = """
expected, statuses, bad, start = load(), [], [], threading.Barrier(6)
inputs("small")  # imports numpy.random, which NumPy does late, and whose lock is nobody's business here
def fork():
    start.wait()
    statuses.extend(in_child(lambda: is_right(expected, "small") and is_right(expected, "rows")) for _ in range(3))
def call():
    start.wait()
    bad.extend(wrong(expected))
workers = [threading.Thread(target=target) for target in (fork, call) * 3]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert not bad and statuses == [0] * 9, (bad, statuses)
assert in_child(lambda: not wrong(expected)) == 0
"""
    run(code, expected, imports="", layer="workqueue", n_threads=2)


@needs_fork
@pytest.mark.slow
def test_fork_while_another_thread_compiles_the_kernels(expected, tmp_path):
    code = """
expected, statuses = load(), []
worker = threading.Thread(target=is_right, args=[expected, "rows"])
worker.start()
for _ in range(3):
    statuses.append(in_child(lambda: is_right(expected, "rows")))
worker.join()
assert statuses == [0] * 3 and is_right(expected, "rows")
"""
    run(code, expected, n_threads=1, NUMBA_CACHE_DIR=str(tmp_path))


# -- numbers of threads ------------------------------------------------------------------------------------------------


def test_any_number_of_threads_gives_the_same_bits(layer, expected):
    code = """
expected = load()
for n in (4, 1, 3, 2, 4):
    numba.set_num_threads(n)
    assert threads.available() == n
    assert not wrong(expected), n
    assert numba.get_num_threads() == n
"""
    run(code, expected, layer=layer, n_threads=4)


def test_number_of_threads_of_the_environment(layer, expected):
    code = "assert threads.available() == numba.get_num_threads() == int(sys.argv[2]) and not wrong(load())"
    for n in (1, 7):
        run(code, expected, n, layer=layer, n_threads=n)


@pytest.mark.parametrize("n_threads", [2, 3, 8, 64])
@pytest.mark.parametrize(
    ("n_rows", "n_classes"),
    [(20_000, 5), (4096, 100), (5000, 64), (8192, 100), (1024, 1000), (8191, 1000), (1030, 4096)],
)
def test_threads_have_equal_shares(n_rows, n_classes, n_threads):
    regime = regime_of(n_rows, n_classes)
    _, block, _ = launch._shares(launch.LIMITS, n_rows, n_classes, regime, n_threads, 4 * n_classes, 4)
    blocks = [min(block, n_rows - first) for first in range(0, n_rows, block)]
    # (Numba gives each thread the same number of blocks, or one more, in order)
    most = -(-len(blocks) // n_threads) * block
    assert sum(blocks) == n_rows
    assert most <= 1.1 * n_rows / n_threads + 16


@pytest.mark.parametrize("function", [fastce.cross_entropy, lambda x, y: fastce.cross_entropy(x, y, reduction="none")])
def test_only_the_kernels_of_a_regime_are_compiled(monkeypatch, function):
    asked, work = [], launch.work
    monkeypatch.setattr(launch, "work", lambda view, regime: asked.append(regime) or work(view, regime))
    plain.FLOATS._known[TYPES + WORK : TYPES + OF_TYPE] = 0  # (of float32; found again below, or by who needs it)
    few, chunks = FEW if FEW in REGIMES else LANES, LOOK
    for shape in ((3, 2), (3, 10), (3, 200), (1, 1 << 17)):
        function(np.zeros(shape, np.float32), np.zeros(shape[0], int))
    wanted = [few, LANES, ROWS, chunks if numba.get_num_threads() > 1 else ROWS]
    assert list(dict.fromkeys(asked)) == list(dict.fromkeys(wanted))  # (what is known need not be asked for again)


@pytest.mark.parametrize("shape", [(100, 900), (5000, 9), (8000, 2), (9000, 1)])
def test_small_calls_are_computed_by_one_thread(shape):
    assert launch.is_small(*shape)
    assert not launch.is_small(10 * shape[0], shape[1])


@pytest.mark.parametrize("options", ["", ", label_smoothing=0.1", ", weight=np.ones(3)", ", reduction='none'"])
def test_small_calls_start_no_threads(options):
    code = f"""
import numpy as np, fastce
from numba.np.ufunc import parallel
x, y = np.zeros((5000, 3), np.float32), np.zeros(5000, np.int64)
fastce.cross_entropy_with_grad(x, y{options})
fastce.softmax(x, axis=1)
assert not parallel._is_initialized
fastce.cross_entropy_with_grad(np.zeros((50_000, 3), np.float32), np.zeros(50_000, np.int64){options})
assert parallel._is_initialized
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("of_environment", [True, False])
def test_one_thread_enters_no_parallel_kernel(layer, expected, of_environment):
    code = """
from fastce.kernels.cpu import kernels, plain
def call_all():
    assert not wrong(load())
    for name in SHAPES:
        fastce.cross_entropy(*inputs(name))  # (the short way)
numba.set_num_threads(1)
call_all()
assert kernels.solve.signatures and plain.FLOATS.of_targets.cache_info().currsize
assert not kernels.solve_shared.signatures and not plain.FLOATS.of_targets_shared.cache_info().currsize
numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
call_all()
several = numba.config.NUMBA_NUM_THREADS > 1
assert bool(kernels.solve_shared.signatures) == bool(plain.FLOATS.of_targets_shared.cache_info().currsize) == several
"""
    run(code, expected, layer=layer, n_threads=1 if of_environment else 2)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

LOOP = """
expected = load()
assert not wrong(expected)
logits, targets = inputs("rows")
try:
    print("calling", flush=True)
    while True:
        fastce.cross_entropy_with_grad(logits, targets)
except KeyboardInterrupt:
    pass
assert not wrong(expected)
print("right")
"""

# The signal comes as soon as the kernel has written something: in the middle of the call.
LONG = """
expected = load()
assert not wrong(expected)
logits = np.concatenate([inputs("rows")[0]] * 500)
targets, before = np.zeros(len(logits), np.int64), logits[0, 0]
def interrupt():
    while logits[0, 0] == before:
        pass
    os.kill(os.getpid(), signal.SIGINT)
interrupter = threading.Thread(target=interrupt)
try:
    interrupter.start()
    print("calling", flush=True)
    fastce.cross_entropy_with_grad(logits, targets, grad_out=logits)
    while True:
        pass
except KeyboardInterrupt:
    interrupter.join()
assert not wrong(expected)
print("right")
"""


@needs_signals
def test_ctrl_c_in_a_long_call(layer, expected):
    assert run(LONG, expected, layer=layer, n_threads=2) == "calling\nright\n"


@needs_signals
def test_ctrl_c_in_a_loop_of_calls(layer, expected):
    with subprocess.Popen(
        command(LOOP, expected),
        cwd=ROOT,
        env=environment(layer, 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "calling\n", process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=2 * SECONDS)
    assert (process.returncode, out, err) == (0, "right\n", "")


# A dozen times in the first call, which takes longer to compile.
COMPILING = """
expected, stop = load(), threading.Event()
def interrupt():
    while not stop.wait(0.7):
        os.kill(os.getpid(), signal.SIGINT)
interrupter = threading.Thread(target=interrupt)
interrupter.start()
interrupted = 0
while True:
    try:
        if interrupted == 12:
            stop.set()
            interrupter.join()
        assert is_right(expected, "rows") and is_right(expected, "small")
        stop.set()
        interrupter.join()
        break
    except KeyboardInterrupt:
        interrupted += 1
assert interrupted and not wrong(expected)
"""


@needs_signals
def test_ctrl_c_while_compiling(expected, tmp_path):
    run(COMPILING, expected, n_threads=1, NUMBA_CACHE_DIR=str(tmp_path))
    assert not list(tmp_path.rglob("*.tmp"))
    run("assert not wrong(load())", expected, n_threads=1, NUMBA_CACHE_DIR=str(tmp_path))


# -- kernels on disk ---------------------------------------------------------------------------------------------------

# Says which passes of the compiler ran: none where a kernel was there.
PASSES = """
from numba.core import event
passes = []
class Listener(event.Listener):
    def on_start(self, event):
        passes.append(event.data["name"])
    def on_end(self, event):
        pass
event.register("numba:run_pass", Listener())
"""


def files_in(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*.nb?")}


def test_later_processes_compile_nothing(expected):
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    before = files_in(folder)
    assert before
    assert run(PASSES + "assert not wrong(load()); print(len(passes))", expected, n_threads=2) == "0\n"
    assert files_in(folder) == before


def test_kernels_of_a_folder_that_cannot_be_written(tmp_path):
    site, home = tmp_path / "site", tmp_path / "home"
    home.mkdir()
    without_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastce", site / "fastce", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copytree(ROOT / "kernels", site / "fastce" / "kernels", ignore=without_cache)
    # Permissions would not stop root, so a file is where the folder of the kernels would be made.
    blocker = site / "fastce" / "kernels" / "cpu" / "__pycache__"
    blocker.touch()
    code = (
        PASSES
        + """
from fastce.kernels import cpu
assert fastce.__file__.startswith(sys.argv[1])
assert cpu.sum_rows(np.arange(5.0)) == 10.0  # compiled in a second, where the others take many
assert cpu.scan_targets(np.arange(5), 5, 2, None, None) == (-1, 4, 4.0, 4.0)
print(len(passes))
"""
    )
    env = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE")}
    env |= {"NUMBA_CACHE_DIR": "", "PYTHONPATH": str(site), "n_threads": 1}
    assert int(run(code, site, cwd=tmp_path, **env)) > 0
    files = files_in(home)
    assert {path.name.split("-")[0] for path in files} == {"targets.scan", "targets.sum_rows"}
    assert run(code, site, cwd=tmp_path, **env) == "0\n"
    assert files_in(home) == files
    assert not files_in(site)

    # Nowhere to write at all: everything is compiled, and works.
    home.rename(tmp_path / "gone")
    home.touch()
    assert int(run(code, site, cwd=tmp_path, **env)) > 0
