"""Launch a kernel: arguments to parameters, blocks to batches."""

from functools import lru_cache

import numpy as np

from .batch import Batch
from .counters import Counters
from .memory import Buffer
from .parser import parse
from .program import Program
from .schedule import SCHEDULES

LANES = 8192  # of a batch: enough for NumPy's overhead not to matter, few enough for a core's cache
SHARED_ALIGNMENT = 128  # all banks once, so that variables keep their banks


@lru_cache(maxsize=64)
def load(ptx, name=None):
    """Make a kernel of a PTX text ready to run: the one of that name, or the only one."""
    kernels = parse(ptx)
    if name is None:
        (name,) = kernels
    return Program(kernels[name])


def launch(ptx, grid, block, arguments, *, memory, name=None, shared_bytes=0, schedule="lockstep", error=None, seed=0,
           fuel=1_000_000, blocks=None):  # fmt: skip
    """Run a kernel and give its counters; raise Fault where it goes wrong, Refused if it cannot be run here.

    Parameters
    ----------
    ptx : the text
    grid, block : int or tuple of up to three
    arguments : a number, or a buffer for its address, or bytes, for each parameter
    memory : Memory, where the buffers are
    name : the kernel's, if the text has several
    shared_bytes : of dynamic shared memory
    schedule : "lockstep", "warp-serial", "warp-reverse" or "random"
    error : of approximate instructions: None, "high", "low", or a seed
    seed : of the random schedule
    fuel : steps after which a batch counts as endless
    blocks : numbers of the only blocks to run, of a grid too large to run all
    """
    program = load(ptx, name)
    return Launch(program, grid, block, arguments, memory, shared_bytes, error, fuel).run(schedule, seed, blocks)


class Launch:
    def __init__(self, program, grid, block, arguments, memory, shared_bytes, error, fuel):
        self.program, self.memory, self.error, self.fuel = program, memory, error, fuel
        self.grid, self.block = _three(grid), _three(block)
        self.n_threads = int(np.prod(self.block))
        if not 0 < self.n_threads <= 1024 or not all(n > 0 for n in self.grid):
            raise ValueError(f"no such launch: grid {self.grid}, block {self.block}")
        self.counters = Counters(program.kernel)
        self.parameters = _parameters(program.kernel, arguments)
        self._lay_out_shared(program.kernel.shared, shared_bytes)

    def run(self, schedule, seed, blocks=None):
        schedule = SCHEDULES[schedule](seed) if schedule == "random" else SCHEDULES[schedule]()
        self.memory.start_launch()
        blocks = schedule.blocks(np.arange(int(np.prod(self.grid))) if blocks is None else np.array(blocks))
        n = max(1, LANES // (-(-self.n_threads // 32) * 32))
        for i in range(0, len(blocks), n):
            Batch(self, blocks[i : i + n]).run(schedule)
        return self.counters

    def _lay_out_shared(self, variables, dynamic):
        """Variables one after the other, with a gap that nobody may touch; those without a size start together."""
        self.variables, self.shared_ranges, at = {}, [], 0
        for variable in sorted(variables.values(), key=lambda v: v.size == 0):
            self.variables[variable.name] = at
            if variable.size:
                self.shared_ranges.append((at, at + variable.size))
                at = -(-(at + variable.size + 1) // SHARED_ALIGNMENT) * SHARED_ALIGNMENT
        self.shared_ranges.append((at, at + dynamic))
        self.shared_bytes = -(-(at + dynamic) // 32) * 32


def _three(shape):
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    return tuple(map(int, shape)) + (1,) * (3 - len(shape))


def _parameters(kernel, arguments):
    """The bytes of each parameter."""
    if len(arguments) != len(kernel.params):
        raise ValueError(f"{len(arguments)} arguments for {len(kernel.params)} parameters")
    return {v.name: _bytes(argument, v.size) for v, argument in zip(kernel.params.values(), arguments, strict=True)}


def _bytes(argument, size):
    if isinstance(argument, Buffer):
        argument = argument.address
    if isinstance(argument, bool):
        argument = int(argument)
    if isinstance(argument, int):
        return (argument % 2 ** (8 * size)).to_bytes(size, "little")
    if isinstance(argument, float):
        argument = np.dtype(f"f{size}").type(argument)
    data = argument if isinstance(argument, bytes) else np.asarray(argument).tobytes()
    if len(data) != size:
        raise ValueError(f"{argument!r} has {len(data)} bytes, the parameter {size}")
    return data


def numba_array(buffer, view=None):
    """The parameters that Numba makes of one array argument: two unused pointers, counts, address, shape, strides."""
    view = buffer.view if view is None else view
    return [0, 0, view.size, view.itemsize, buffer.address_of(view), *view.shape, *view.strides]
