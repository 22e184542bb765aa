"""How instructions get at their operands: registers, special registers, literals, addresses of variables.

Values are arrays: one for each lane, or one for all of them, in an array of length 1.
"""

import numpy as np

from . import special
from .faults import Refused
from .lanes import count
from .syntax import Address, Immediate, Register, Symbol
from .values import DTYPES, UNSIGNED, bits_of, immediate


class RegisterFile:
    """The registers of all threads of a batch. One that was not written holds nothing that may be used."""

    def __init__(self, kernel, exists):
        self.types = kernel.registers
        self.exists = exists
        self.values = {}  # by name, from the first write on
        self.defined = {}  # which lanes have written; of threads that do not exist nobody asks
        self.everywhere = set()  # names of registers that all lanes have written

    def write(self, name, lanes, value):
        if name not in self.values:
            self.values[name] = np.empty(len(self.exists), bits_of(DTYPES[self.types[name]]))
        self.values[name][lanes] = value
        if name not in self.everywhere:
            defined = self.written(name)
            defined[lanes] = True
            if defined.all():
                self.everywhere.add(name)

    def written(self, name):
        """A mask of the lanes that have written a register."""
        if name not in self.defined:
            self.defined[name] = ~self.exists
        return self.defined[name]

    def copy(self, to, source, lanes):
        """Copy also what was never written, which then counts as unwritten there."""
        if source in self.values:
            self.write(to, lanes, self.values[source][lanes])
        self.written(to)[lanes] = self.written(source)[lanes]
        self.everywhere.discard(to)


def reader(kernel, operand, kind, wider=False):
    """Give a function of a batch and some of its lanes to their values, of the type `kind`.

    The register has just that size; where `wider` ones are allowed too, their lowest bits are read.
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
    return _register(kernel, operand, dtype, wider)


def _held(kernel, name, dtype, wider):
    """The bits that a register holds, which must suit the type that an instruction has for it."""
    held = bits_of(DTYPES[kernel.registers[name]])
    fits = dtype.itemsize <= held.itemsize if wider else bits_of(dtype) == held
    if not fits or (dtype.kind == "b") != (held.kind == "b"):
        raise Refused(f"{name} of {held} used as {dtype} is not implemented")
    return held


def _register(kernel, operand, dtype, wider):
    name = operand.name
    held = _held(kernel, name, dtype, wider)
    narrow = None if dtype.itemsize == held.itemsize else UNSIGNED[dtype.itemsize]

    def read(batch, lanes):
        registers = batch.registers
        if name not in registers.everywhere:
            defined = registers.written(name)[lanes]
            if not defined.all():
                batch.fault("uninitialised", f"{name} was never written", lanes, ~defined)
        value = registers.values[name][lanes]
        if narrow is not None:
            value = value.astype(narrow)
        return value.view(dtype)

    return (lambda batch, lanes: ~read(batch, lanes)) if operand.negated else read


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
        return lambda batch, lanes, value: None
    held = _held(kernel, name, dtype, wider)
    # What is narrower fills the register: with its sign if it is signed, else with zeros.
    wide = np.dtype(f"i{held.itemsize}") if dtype.kind == "i" else held
    bits = bits_of(dtype) if dtype.itemsize > 1 else dtype

    def write(batch, lanes, value):
        assert value.dtype == dtype, (operand, value.dtype, dtype)
        if dtype.itemsize != held.itemsize:
            value = value.astype(wide) if dtype.kind in "iu" else value.view(bits).astype(held)
        batch.registers.write(name, lanes, value.view(held))

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
