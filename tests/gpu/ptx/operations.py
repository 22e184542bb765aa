"""The table of all instructions that only compute, and what becomes of their names."""

import numpy as np

from . import arithmetic, logic
from .convert import convert
from .decode import Operation
from .faults import Refused

TABLE = {**arithmetic.TABLE, **logic.TABLE, "cvt": convert}
IN_PAIRS = ("add", "sub", "mul", "fma")  # these may do the same to both float32 of a 64-bit register


def operation(modifiers, opcode):
    if opcode not in TABLE:
        raise Refused(f"{modifiers.name}: the opcode is not implemented")
    pairs = opcode in IN_PAIRS and modifiers.left[-1:] == ["f32x2"]
    if pairs:
        modifiers.left[-1] = "f32"
        if "sat" in modifiers.left:
            modifiers.refuse("saturating")
    found = TABLE[opcode](modifiers)
    modifiers.done()
    return in_pairs(found) if pairs else found


def in_pairs(one):
    def both(*operands):
        operands = [np.reshape(x, (-1, 1)).view(np.float32) for x in operands]
        return np.ascontiguousarray(one.function(*operands)).view(np.uint64)[:, 0]

    def known(values, masks):
        """A half, where that half of every operand is."""
        result = np.uint8(0b1111)
        for mask in masks:
            if mask is not None:
                result = result & (np.where(mask & 3 == 3, 3, 0) | np.where(mask & 12 == 12, 12, 0))
        return result.astype(np.uint8)

    return Operation(both, "f32x2", ("f32x2",) * len(one.sources), known=known)
