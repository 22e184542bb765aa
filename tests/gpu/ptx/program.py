"""A kernel made ready to run: a step for each instruction. What is not implemented is refused here, before it runs."""

from dataclasses import dataclass

import numpy as np

from . import barriers, transfers, warps
from .decode import Modifiers, size
from .faults import Refused
from .lanes import count, select
from .operations import operation
from .registers import known, reader, writer


@dataclass(frozen=True)
class Step:
    execute: object  # of a batch and lanes
    guard: object = None  # gives which lanes execute
    control: object = None  # in place of `execute`: gives the next instruction, or None when it set program counters
    meets: bool = False  # lanes of a warp wait here for each other


class Program:
    def __init__(self, kernel):
        self.kernel = kernel
        self.steps = [self._step(instruction) for instruction in kernel.instructions]
        if not kernel.instructions or kernel.instructions[-1].opcode not in ("ret", "exit", "bra"):
            raise Refused("a kernel that does not end in ret or bra")
        self.shared_granule = min([4, *_sizes_of_shared_accesses(kernel)])

    def _step(self, instruction):
        kernel = self.kernel
        try:
            return self._decode(kernel, instruction)
        except (Refused, ValueError, KeyError, IndexError, TypeError) as error:
            where = f"line {instruction.line}: {kernel.text(instruction)}"
            raise Refused(f"{where}: {error}") from error

    def _decode(self, kernel, instruction):
        name = instruction.opcode
        guard = None if instruction.guard is None else reader(kernel, instruction.guard, "pred")
        if name in ("bra", "ret", "exit"):
            return Step(None, control=_branch(kernel, instruction, guard))
        control = _waiting(name, instruction.modifiers)
        if control is not None:
            if guard is not None:
                raise Refused("a guard here is not implemented")
            return Step(None, control=control(kernel, instruction), meets=True)
        if name in transfers.TABLE:
            return Step(transfers.TABLE[name](kernel, instruction), guard)
        return Step(_compute(kernel, instruction), guard)


def _waiting(name, modifiers):
    """The decoder of an instruction at which threads wait for each other."""
    if name in ("bar", "barrier"):
        return {"warp": warps.bar_warp_sync, "red": barriers.reduction}.get(modifiers[0], barriers.barrier)
    return warps.TABLE.get(name)


def _branch(kernel, instruction, guard):
    if instruction.modifiers not in ((), ("uni",)):
        raise Refused("this kind of branch is not implemented")
    target = None  # out of the kernel
    if instruction.opcode == "bra":
        (label,) = instruction.operands
        target = kernel.labels[label.name]

    def branch(batch, lanes, at):
        taken = lanes if guard is None else select(lanes, guard(batch, lanes))
        n = count(taken)
        batch.effective[at] += n
        if n == 0:
            return at + 1
        if target is None:
            batch.pc[lanes] = at + 1
            batch.leave(taken)
            return None
        if n == count(lanes):
            return target
        batch.pc[lanes] = at + 1
        batch.pc[taken] = target
        return None

    return branch


def _compute(kernel, instruction):
    """An instruction that only computes: read, calculate, write."""
    m = Modifiers(instruction)
    op = operation(m, instruction.opcode)
    to, *sources = instruction.operands
    if len(sources) != len(op.sources):
        raise Refused(f"{len(sources)} operands are not implemented")
    wider = instruction.opcode == "cvt"
    reads = [reader(kernel, source, kind, wider) for source, kind in zip(sources, op.sources, strict=True)]
    write, function = writer(kernel, to, op.result, wider), op.function
    if op.approximate:
        return lambda batch, lanes: write(
            batch, lanes, function(*[read(batch, lanes) for read in reads], error=batch.error)
        )
    if instruction.opcode in ("div", "rem") and op.result not in ("f32", "f64"):
        return _dividing(reads, function, write)
    if instruction.opcode == "setp":
        return _comparing(reads, function, write)
    if op.known is not None:
        unchecked = [
            reader(kernel, x, kind, wider, unchecked=kind != "pred")
            for x, kind in zip(sources, op.sources, strict=True)
        ]
        return _passing_on(unchecked, [known(kernel, source) for source in sources], op, write)
    return lambda batch, lanes: write(batch, lanes, function(*[read(batch, lanes) for read in reads]))


def _comparing(reads, function, write):
    def compare(batch, lanes):
        result = np.broadcast_to(function(*[read(batch, lanes) for read in reads]), count(lanes))
        batch.true[batch.current] += np.count_nonzero(result)
        write(batch, lanes, result)

    return compare


def _passing_on(reads, masks, op, write):
    """What is chosen, each of a pair, the lower half of a number: unknown only if it was unknown before."""

    def execute(batch, lanes):
        values, found = [read(batch, lanes) for read in reads], [mask(batch, lanes) for mask in masks]
        all_known = all(mask is None for mask in found)
        write(batch, lanes, op.function(*values), None if all_known else op.known(values, found))

    return execute


def _dividing(reads, function, write):
    def divide(batch, lanes):
        a, b = (read(batch, lanes) for read in reads)
        if (b == 0).any():
            batch.fault("value", "an integer division by zero", lanes, b == 0)
        write(batch, lanes, function(a, b))

    return divide


def _sizes_of_shared_accesses(kernel):
    for instruction in kernel.instructions:
        if instruction.opcode in ("ld", "st") and not {"global", "param"} & set(instruction.modifiers):
            yield size(instruction.modifiers[-1])
