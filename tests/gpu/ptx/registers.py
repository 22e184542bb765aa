"""How instructions get at their operands: registers, special registers, literals, addresses of variables.

Values are arrays: one for each lane, or one for all of them, in an array of length 1.
"""

import numpy as np

from . import special
from .faults import Refused
from .lanes import count
from .syntax import Address, Immediate, Register, Symbol
from .values import DTYPES, UNSIGNED, bits_of, immediate, whole


class RegisterFile:
    """The registers of all threads of a batch, and which parts of them hold something that may be used.

    Compilers move what was never written: they copy it where paths meet, pack it beside something else. That is no use
    of it, so each lane of a register has a bit for every 16 of its bits that says whether they are known.
    """

    def __init__(self, kernel, exists):
        self.types = {name: bits_of(DTYPES[kind]) for name, kind in kernel.registers.items()}
        self.exists = exists
        self.values = {}  # by name, from the first use on
        self.masks = {}
        self.everywhere = set()  # names of registers that all lanes know wholly

    def value(self, name, lanes):
        if name not in self.values:
            self.values[name] = np.zeros(len(self.exists), self.types[name])
        return self.values[name][lanes]

    def known(self, name, lanes):
        """Which parts of a register are known; None if all are."""
        if name in self.everywhere:
            return None
        mask = self._mask(name)[lanes]
        return None if (mask == whole(self.types[name])).all() else mask

    def write(self, name, lanes, value, known=None):
        if name not in self.values:
            self.values[name] = np.empty(len(self.exists), self.types[name])
        self.values[name][lanes] = value
        if known is not None:
            self._mask(name)[lanes] = known
            self.everywhere.discard(name)
        elif name not in self.everywhere and count(lanes) == len(self.exists):
            self.masks.pop(name, None)
            self.everywhere.add(name)
        elif name not in self.everywhere:
            mask, all_of_it = self._mask(name), whole(self.types[name])
            mask[lanes] = all_of_it
            if (mask == all_of_it).all():
                self.everywhere.add(name)

    def _mask(self, name):
        if name not in self.masks:  # about threads that do not exist, nobody asks
            known = ~self.exists | (name in self.everywhere)
            self.masks[name] = known * np.uint8(whole(self.types[name]))
        return self.masks[name]


def reader(kernel, operand, kind, wider=False, unchecked=False):
    """Give a function of a batch and some of its lanes to their values, of the type `kind`.

    The register has just that size; where `wider` ones are allowed too, their lowest bits are read. `unchecked`, it may
    be unknown: `known` tells.
    """
    dtype = DTYPES[kind]
    if isinstance(operand, Immediate):
        value = np.array([immediate(operand.text, dtype)])
        return lambda batch, lanes: value
    if isinstance(operand, Symbol):
        return _variable(kernel, operand.name, dtype)
    if not isinstance(operand, Register):
        raise Refused(f"{operand} as an operand is not implemented")
    if operand.name not in kernel.registers:
        return _special(operand.name, dtype)
    return _register(kernel, operand, dtype, wider, unchecked)


def _held(kernel, name, dtype, wider):
    """The bits that a register holds, which must suit the type that an instruction has for it.

    A float register is never wider: compilers have loaded float16 into float32 registers and forgotten to convert them.
    """
    held = bits_of(DTYPES[kernel.registers[name]])
    wider = wider and kernel.registers[name][0] != "f"
    fits = dtype.itemsize <= held.itemsize if wider else bits_of(dtype) == held
    if not fits or (dtype.kind == "b") != (held.kind == "b"):
        raise Refused(f"{name} of {held} used as {dtype} is not implemented")
    return held


def _register(kernel, operand, dtype, wider, unchecked):
    name = operand.name
    held = _held(kernel, name, dtype, wider)
    narrow = None if dtype.itemsize == held.itemsize else UNSIGNED[dtype.itemsize]

    def read(batch, lanes):
        registers = batch.registers
        if not unchecked:
            known = registers.known(name, lanes)
            if known is not None:
                batch.fault("uninitialised", f"{name} was never written", lanes, known != whole(held))
        value = registers.value(name, lanes)
        if narrow is not None:
            value = value.astype(narrow)
        return value.view(dtype)

    return (lambda batch, lanes: ~read(batch, lanes)) if operand.negated else read


def known(kernel, operand):
    """Give a function of a batch and lanes to which parts of an operand are known; None if all are."""
    if isinstance(operand, Register) and operand.name in kernel.registers:
        return lambda batch, lanes: batch.registers.known(operand.name, lanes)
    return lambda batch, lanes: None


def _special(name, dtype):
    if name not in special.NAMES:
        raise Refused(f"the register {name} is not implemented")

    def read(batch, lanes):
        return batch.special(name)[lanes].astype(UNSIGNED[dtype.itemsize]).view(dtype)

    return read


def _variable(kernel, name, dtype):
    if name not in kernel.shared:
        raise Refused(f"the address of {name} is not implemented")
    return lambda batch, lanes: np.array([batch.variables[name]], dtype)


def writer(kernel, operand, kind, wider=False):
    """Give a function of a batch, lanes and their values that puts these into a register."""
    dtype = DTYPES[kind]
    if not isinstance(operand, Register):
        raise Refused(f"{operand} as a destination is not implemented")
    name = operand.name
    if name == "_":
        return lambda batch, lanes, value, known=None: None
    held = _held(kernel, name, dtype, wider)
    # What is narrower fills the register: with its sign if it is signed, else with zeros.
    wide = np.dtype(f"i{held.itemsize}") if dtype.kind == "i" else held
    bits = bits_of(dtype) if dtype.itemsize > 1 else dtype

    def write(batch, lanes, value, known=None):
        assert value.dtype == dtype, (operand, value.dtype, dtype)
        if known is not None and (known == whole(dtype)).all():
            known = None
        if dtype.itemsize != held.itemsize:
            if known is not None:
                known = np.where(known == whole(dtype), np.uint8(whole(held)), np.uint8(0))
            value = value.astype(wide) if dtype.kind in "iu" else value.view(bits).astype(held)
        batch.registers.write(name, lanes, value.view(held), known)

    return write


def addresser(kernel, operand):
    """Give a function of a batch and lanes to addresses: uint64, one for each lane."""
    if not isinstance(operand, Address):
        raise Refused(f"{operand} as an address is not implemented")
    if isinstance(operand.base, Register):
        held = bits_of(DTYPES[kernel.registers[operand.base.name]])
        read = reader(kernel, operand.base, f"u{8 * held.itemsize}")
    else:
        held = np.dtype(np.uint64)
        read = reader(kernel, operand.base, "u64")
    offset = np.int64(operand.offset).astype(held)

    def address(batch, lanes):
        return np.broadcast_to((read(batch, lanes) + offset).astype(np.uint64), count(lanes))

    return address
