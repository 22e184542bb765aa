"""bar.sync: the barrier of a block. All its threads must come, and all to the same instruction.

A warp must come as a whole, says the manual, where the assembler lets lanes meet again after they went different ways.
Here those that come first wait for the rest of their warp as they do for other warps.
"""

import numpy as np

from .decode import Modifiers
from .faults import Refused
from .lanes import compact, count
from .registers import reader, writer
from .syntax import Immediate


def barrier(kernel, instruction):
    """Only barrier 0, for all threads of the block."""
    m = Modifiers(instruction)
    m.need("sync")
    m.take("cta")
    if instruction.opcode == "barrier":
        m.need("aligned")
    m.done()
    _only_barrier_0(instruction.operands)
    return lambda batch, lanes, at: arrive(batch, lanes, at)


def reduction(kernel, instruction):
    """bar.red: every thread gets how many had a true predicate, or whether all or any had."""
    m = Modifiers(instruction)
    m.need("red")
    m.take("cta")
    how = m.need("popc", "and", "or")
    kind = m.type("u32" if how == "popc" else "pred")
    m.done()
    _only_barrier_0(instruction.operands[1:2])
    write, read = writer(kernel, instruction.operands[0], kind), reader(kernel, instruction.operands[2], "pred")

    def finish(batch, lanes):
        block = batch.block_slot[lanes]
        true = np.bincount(block, batch.voted[lanes], batch.n_blocks).astype(np.uint32)[block]
        results = {"popc": true, "and": true == batch.n_threads, "or": true > 0}
        write(batch, lanes, results[how])

    def step(batch, lanes, at):
        batch.voted[lanes] = read(batch, lanes)
        return arrive(batch, lanes, at, finish)

    return step


def _only_barrier_0(operands):
    if operands != (Immediate("0"),):
        raise Refused("barriers other than 0 of all threads are not implemented")


def arrive(batch, lanes, at, finish=None):
    batch.effective[at] += count(lanes)
    batch.pc[lanes] = at
    batch.blocked[lanes] = batch.at_barrier[lanes] = True
    check_exits(batch)
    waiting = batch.per_block(batch.at_barrier)
    elsewhere = batch.at_barrier & (batch.pc != at) & (waiting == batch.n_threads)[batch.block_slot]
    if elsewhere.any():
        other = batch.pc[elsewhere][0]
        message = f"other threads of the block wait in line {batch.line(other)}"
        batch.fault("barrier", message, lanes, np.isin(batch.block_slot[lanes], batch.block_slot[elsewhere]))
    complete = np.flatnonzero((waiting == batch.n_threads)[batch.block_slot] & batch.exists)
    if len(complete):
        complete = compact(complete)
        if finish is not None:
            finish(batch, complete)
        batch.blocked[complete] = batch.at_barrier[complete] = False
        batch.pc[complete] = at + 1
        batch.clock[complete] += 1 << 32


def check_exits(batch):
    """A thread that has left the kernel will not come to the barrier at which others wait."""
    gone = batch.exists & (batch.pc == batch.EXITED)
    if gone.any() and batch.at_barrier.any():
        stuck = batch.at_barrier & (batch.per_block(gone) > 0)[batch.block_slot]
        if stuck.any():
            message = "other threads of the block have left the kernel"
            batch.current = int(batch.pc[stuck][0])
            batch.fault("barrier", message, slice(0, batch.n_lanes), stuck)
