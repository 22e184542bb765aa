"""An interpreter of PTX, NVIDIA's assembly language for GPUs, in Python and NumPy.

It runs the very text that the compiler makes of a kernel, on machines without a GPU, and watches every thread:

    from gpu.ptx import Memory, launch

    memory = Memory()
    x = memory.array(np.arange(6, dtype=np.float32), name="x", readonly=True)
    y = memory.empty(6, np.float32, name="y")
    counters = launch(ptx, grid=1, block=32, arguments=[x, y, 6], memory=memory, schedule="random", error="high")
    y.get()                                           # raises if an element was never written
    counters.instructions, counters.uncovered()
    counters.traffic["global", "load"].sectors

`launch` raises `Fault` where a kernel does what is wrong on a GPU, whatever values it gave here (faults.py lists the
kinds), and `Refused`, before anything runs, for PTX that is not implemented. An array argument of a kernel of Numba
becomes several parameters: `*numba_array(x)`. It says nothing about speed, nor of what the assembler makes of PTX.

To read it as a description of PTX, begin with syntax.py (the text), values.py, registers.py and special.py (types and
operands), then arithmetic.py, logic.py and convert.py (instructions that compute; floats.py and integers.py have their
semantics, approximate.py what is not exact), transfers.py and access.py (memory), warps.py and barriers.py (threads
together), and batch.py, schedule.py and races.py (who runs when). mutants.py breaks kernels, to show that tests notice.
"""

from .faults import Fault, Refused
from .launch import launch, load, numba_array
from .memory import Memory
from .schedule import SCHEDULES

__all__ = ["SCHEDULES", "Fault", "Memory", "Refused", "launch", "load", "numba_array"]
