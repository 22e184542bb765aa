"""Some blocks of a launch, run together: every instruction for all of their threads that are at it.

Lanes are numbered by warp, then block, then lane of the warp, so that the same warp of all blocks is a slice.
"""

import numpy as np

from . import barriers
from .faults import Fault
from .lanes import compact, count, select
from .memory import UNWRITTEN, Segment
from .registers import RegisterFile
from .special import special


class Batch:
    EXITED = np.int32(2**30)  # beyond every program counter

    def __init__(self, launch, blocks):
        program, kernel = launch.program, launch.program.kernel
        self.launch, self.kernel, self.steps = launch, kernel, program.steps
        self.memory, self.parameters, self.error = launch.memory, launch.parameters, launch.error
        self.counters, self.variables, self.shared_bytes = launch.counters, launch.variables, launch.shared_bytes
        self.n_threads, self.n_blocks = launch.n_threads, len(blocks)
        self.n_warps = -(-self.n_threads // 32)
        self.n_lanes = self.n_warps * self.n_blocks * 32
        number = np.arange(self.n_lanes)
        self.lane = number % 32
        self.warp = number // 32  # of the batch
        self.block_slot = self.warp % self.n_blocks
        warp_of_block = self.warp // self.n_blocks
        self.thread_of_block = warp_of_block * 32 + self.lane
        self.exists = self.thread_of_block < self.n_threads
        self.block = np.asarray(blocks)[self.block_slot]
        # For races: who a lane is, and when it last waited for others.
        self.threads_per_block = self.n_warps * 32
        self.thread = self.block * self.threads_per_block + self.thread_of_block
        self.clock = np.zeros(self.n_lanes, np.int64)
        # Where it is, and whether it waits: for lanes of its warp, or at the barrier of its block.
        self.pc = np.where(self.exists, np.int32(0), self.EXITED)
        self.blocked = np.zeros(self.n_lanes, bool)
        self.at_barrier = np.zeros(self.n_lanes, bool)
        self.voted = np.zeros(self.n_lanes, bool)
        self.current = 0
        self.issued, self.effective, self.true = ([0] * len(self.steps) for _ in range(3))
        self.registers = RegisterFile(kernel, self.exists)
        self.shared = Segment(self.shared_bytes * self.n_blocks, "shared memory", program.shared_granule)
        self.shared_base = self.block_slot * self.shared_bytes
        state = self.shared.state[: self.shared_bytes * self.n_blocks].reshape(self.n_blocks, -1)
        for begin, end in launch.shared_ranges:
            state[:, begin:end] = UNWRITTEN
        self.shared.all_written = False
        self._special = {}

    # Running

    def run(self, schedule):
        self.fuel = self.launch.fuel
        with np.errstate(all="ignore"):
            while self._advance(schedule):
                pass
        self._check_that_all_left()
        self.counters.issued += self.issued
        self.counters.effective += self.effective
        self.counters.true += self.true

    def _advance(self, schedule):
        """Let the chosen warps' lanes of the lowest program counter run until they must wait, branch apart or meet."""
        ready = np.where(self.blocked, self.EXITED, self.pc)
        front = ready.reshape(self.n_warps, self.n_blocks, 32).min(axis=2)
        runnable = front < self.EXITED
        if not runnable.any():
            return False
        chosen = schedule.choose(runnable)
        at = int(front[chosen].min())
        if chosen is not runnable:
            ready = np.where(np.repeat(chosen.ravel(), 32), ready, self.EXITED)
        lanes = ready == at
        limit = int(np.where(lanes, self.EXITED, ready).min())
        # Lanes that wait here for others of their warp try again with them.
        waiting = self.blocked & ~self.at_barrier & (self.pc == at)
        if waiting.any():
            lanes |= waiting & np.repeat(chosen.ravel(), 32)
        self._go(compact(np.flatnonzero(lanes)), at, limit, schedule.burst or self.EXITED)
        return True

    def _go(self, lanes, at, limit, burst):
        n, first = count(lanes), at
        while True:
            step = self.steps[at]
            if step.meets and at != first and (self.blocked & (self.pc == at)).any():
                self.pc[lanes] = at  # others of these warps may wait here: go on with them
                break
            self.current = at
            self.fuel -= 1
            if self.fuel < 0:
                self.fault("endless", f"more than {self.launch.fuel} steps", lanes)
            self.issued[at] += n
            burst -= 1
            if step.control is not None:
                at = step.control(self, lanes, at)
                if at is None:
                    break
            else:
                part = lanes if step.guard is None else select(lanes, step.guard(self, lanes))
                k = count(part)
                self.effective[at] += k
                if k:
                    step.execute(self, part)
                at += 1
            if at >= limit or burst <= 0:
                self.pc[lanes] = at
                break

    def leave(self, lanes):
        """Out of the kernel."""
        self.pc[lanes] = self.EXITED
        self.blocked &= self.at_barrier  # who waited for these lanes of its warp looks again
        barriers.check_exits(self)

    def _check_that_all_left(self):
        """Nobody can go on: whoever has not left the kernel waits for lanes of its warp, or for its block."""
        for waiting, whom in ((self.blocked & ~self.at_barrier, "warp"), (self.at_barrier, "block")):
            if waiting.any():
                self.current = int(self.pc[waiting][0])
                lines = sorted({self.line(at) for at in self.pc[self.blocked]})
                message = f"all wait, in lines {', '.join(map(str, lines))}, and others of the {whom} never come"
                self.fault("deadlock", message, slice(0, self.n_lanes), waiting)

    # Asked by instructions

    def per_block(self, mask):
        return mask.reshape(self.n_warps, self.n_blocks, 32).sum(axis=(0, 2))

    def special(self, name):
        if name not in self._special:
            self._special[name] = special(self, name)
        return self._special[name]

    def line(self, at):
        return self.kernel.instructions[int(at)].line

    def fault(self, kind, message, lanes, which=None):
        """Raise, with the instruction and the first thread that did it."""
        number = np.arange(self.n_lanes)[lanes]
        if which is not None:
            number = number[np.broadcast_to(which, number.shape)]
        i = number[0]
        block = tuple(int(self.special(f"%ctaid.{axis}")[i]) for axis in "xyz")
        thread = tuple(int(self.special(f"%tid.{axis}")[i]) for axis in "xyz")
        instruction = self.kernel.instructions[self.current]
        where = f"line {instruction.line}: {self.kernel.text(instruction)}; thread {thread} of block {block}"
        raise Fault(kind, f"{message} ({where}; {len(number)} threads)")
