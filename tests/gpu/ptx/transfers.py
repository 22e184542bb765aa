"""Instructions that move values: mov, ld, st, cvta; and fences, which do nothing here."""

import numpy as np

from . import access
from .access import SHARED_WINDOW
from .decode import BITS, FLOATS, INTEGERS, Modifiers, size
from .faults import Refused
from .lanes import count
from .registers import addresser, known, reader, writer
from .syntax import Address, Symbol, Vector
from .values import DTYPES, UNSIGNED, whole

HINTS = ("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "weak", "volatile")  # of caches; they change no value
HINTS += ("L1::evict_normal", "L1::evict_first", "L1::evict_last", "L1::evict_unchanged", "L1::no_allocate")
HINTS += ("L2::64B", "L2::128B", "L2::256B")


# mov


def mov(kernel, instruction):
    m = Modifiers(instruction)
    kind = m.type("pred", *BITS, *INTEGERS, *FLOATS)
    m.done()
    to, source = instruction.operands
    if isinstance(to, Vector):
        return _unpack(kernel, to.parts, source, kind)
    if isinstance(source, Vector):
        return _pack(kernel, to, source.parts, kind)
    read, mask = reader(kernel, source, kind, unchecked=True), known(kernel, source)
    write = writer(kernel, to, kind)
    return lambda batch, lanes: write(batch, lanes, read(batch, lanes), mask(batch, lanes))


def _unpack(kernel, parts, source, kind):
    """mov.b64 {%r1, %r2}, %rd1: the lowest bits come first."""
    dtype = UNSIGNED[size(kind) // len(parts)]
    read, mask = reader(kernel, source, kind, unchecked=True), known(kernel, source)
    writes = [writer(kernel, to, f"b{8 * dtype.itemsize}") for to in parts]
    units, all_of_it = dtype.itemsize // 2, whole(dtype)

    def unpack(batch, lanes):
        columns = _columns(read(batch, lanes), dtype, len(writes))
        masks = mask(batch, lanes)
        for i, write in enumerate(writes):
            write(batch, lanes, columns[:, i], None if masks is None else (masks >> i * units) & all_of_it)

    return unpack


def _pack(kernel, to, parts, kind):
    dtype = UNSIGNED[size(kind) // len(parts)]
    reads = [reader(kernel, part, f"b{8 * dtype.itemsize}", unchecked=True) for part in parts]
    masks, write = [known(kernel, part) for part in parts], writer(kernel, to, kind)
    units, all_of_it = dtype.itemsize // 2, whole(dtype)

    def pack(batch, lanes):
        value = _gather(batch, lanes, reads, dtype).view(DTYPES[kind])[:, 0]
        found = [mask(batch, lanes) for mask in masks]
        together = None
        if any(mask is not None for mask in found):
            together = sum((all_of_it if mask is None else mask) << i * units for i, mask in enumerate(found))
        write(batch, lanes, value, together)

    return pack


def _columns(items, dtype, n):
    return np.ascontiguousarray(items).view(dtype).reshape(-1, n)


def _gather(batch, lanes, reads, dtype):
    columns = np.empty((count(lanes), len(reads)), dtype)
    for i, read in enumerate(reads):
        columns[:, i] = read(batch, lanes)
    return columns


# ld and st


def _form(instruction, register):
    """Space, type, and how many: of an access to memory."""
    m = Modifiers(instruction)
    kind = m.type()
    if kind == "pred":
        m.refuse("of predicates")
    space = m.take("global", "shared", "param", "shared::cta") or "generic"
    count = int((m.take("v2", "v4", "v8") or "v1")[1:])
    constant = "nc" in m.left
    while m.take(*HINTS):
        pass
    m.done()
    parts = register.parts if isinstance(register, Vector) else (register,)
    if len(parts) != count or len(instruction.operands) != 2:
        m.refuse("with these operands")
    return space.removesuffix("::cta"), kind, parts, constant


def ld(kernel, instruction):
    to, at = instruction.operands
    space, kind, parts, constant = _form(instruction, to)
    writes = [writer(kernel, part, kind, wider=True) for part in parts]
    dtype = DTYPES[kind]
    n_bytes = dtype.itemsize * len(parts)
    if space == "param":
        return _load_parameter(kernel, at, writes, dtype)
    address = addresser(kernel, at)

    def load(batch, lanes):
        items = access.load(batch, lanes, space, address(batch, lanes), n_bytes, constant)
        if len(writes) == 1:
            writes[0](batch, lanes, items.view(dtype))
        else:
            columns = _columns(items, dtype, len(writes))
            for i, write in enumerate(writes):
                write(batch, lanes, columns[:, i])

    return load


def _load_parameter(kernel, at, writes, dtype):
    if not isinstance(at, Address) or not isinstance(at.base, Symbol) or at.base.name not in kernel.params:
        raise Refused("ld.param of something that is no parameter of the kernel")
    name, offset = at.base.name, at.offset

    def load(batch, lanes):
        values = np.frombuffer(batch.parameters[name], dtype, len(writes), offset)
        for i, write in enumerate(writes):
            write(batch, lanes, values[i : i + 1])

    return load


def st(kernel, instruction):
    at, source = instruction.operands
    space, kind, parts, _ = _form(instruction, source)
    if space == "param":
        raise Refused("st.param is not implemented")
    dtype = UNSIGNED[size(kind)]
    reads = [reader(kernel, part, kind, wider=True) for part in parts]
    address, n_bytes = addresser(kernel, at), dtype.itemsize * len(parts)
    item = {16: "c16", 32: "V32"}.get(n_bytes, f"u{n_bytes}")

    def store(batch, lanes):
        if len(reads) == 1:
            items = np.broadcast_to(reads[0](batch, lanes).view(dtype), count(lanes))
        else:
            bits = [lambda batch, lanes, read=read: read(batch, lanes).view(dtype) for read in reads]
            items = _gather(batch, lanes, bits, dtype).view(item)[:, 0]
        access.store(batch, lanes, space, address(batch, lanes), n_bytes, items)

    return store


def cvta(kernel, instruction):
    """Generic addresses: global memory keeps its addresses, shared memory has a window."""
    m = Modifiers(instruction)
    kind, to, space = m.type("u64"), m.flag("to"), m.need("global", "shared")
    m.done()
    window = np.uint64(SHARED_WINDOW if space == "shared" else 0)
    read, write = reader(kernel, instruction.operands[1], kind), writer(kernel, instruction.operands[0], kind)
    if to:
        return lambda batch, lanes: write(batch, lanes, read(batch, lanes) - window)
    return lambda batch, lanes: write(batch, lanes, read(batch, lanes) + window)


def fence(kernel, instruction):
    """Threads see each other's stores at once here. Races are found as if fences ordered nothing."""
    m = Modifiers(instruction)
    m.take("sc", "acq_rel")
    m.need("cta", "gl", "gpu", "sys")
    m.done()
    return lambda batch, lanes: None


TABLE = {"mov": mov, "ld": ld, "st": st, "cvta": cvta, "membar": fence, "fence": fence}
