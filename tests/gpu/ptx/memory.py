"""The GPU's memory: buffers at addresses of their own, with a state for every byte.

    memory = Memory()
    x = memory.array(np.ones((3, 5), np.float32), name="logits", readonly=True, pad=2, shift=1)
    y = memory.empty((3, 5), np.float32, name="grad")
    x.address, x.strides      what a kernel gets: where the first element lies, and the distance of rows in bytes
    x.view                    the elements as a NumPy array, without a copy
    y.get()                   a copy; an error if some element was never written
    memory.free(y)
    memory.rows(values, step)       a list of buffers, as far apart as one likes

Addresses are never given out twice, lie beyond 2**32, and buffers are far apart: an access that misses its buffer hits
none. `pad` elements after each row and `shift` elements before the first may not be touched either.
"""

from bisect import bisect_right

import numpy as np

from .faults import Fault

FORBIDDEN, UNWRITTEN, WRITTEN = (
    0,
    1,
    3,
)  # the state of a byte: bit 0 says that it may be touched, bit 1 that it has a value
ALIGNMENT = 256
FIRST_ADDRESS = 0x7F00_0000_0000
GAP = 1 << 20
GARBAGE = 0xA5


class Segment:
    """Bytes with states: a buffer, or the shared memory of some blocks. Its length is a multiple of every access."""

    def __init__(self, n_bytes, name, granule, writable=True):
        length = -(-max(n_bytes, 1) // 32) * 32
        self.data = np.full(length, GARBAGE, np.uint8)
        self.state = np.zeros(length, np.uint8)
        self.name = name
        self.granule = granule  # races are looked for among units of this size
        self.writable = writable
        self.items = {}
        self.start_launch()

    def start_launch(self):
        """Forget who used it: kernels follow one another."""
        self.shadow = None
        self.stored = self.read_as_constant = False
        self.all_written = bool((self.state == WRITTEN).all())

    def as_items(self, size):
        """The bytes and their states as items of the size of an access."""
        if size not in self.items:
            item = {16: "c16", 32: "V32"}.get(size, f"u{size}")
            self.items[size] = self.data.view(item), self.state.view(item)
        return self.items[size]


class Buffer(Segment):
    """An array in the GPU's memory."""

    def __init__(self, address, shape, dtype, name, writable, pad, shift):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        row = (self.shape[-1] + pad if self.shape else 1) * self.dtype.itemsize
        strides = [self.dtype.itemsize]
        for n in self.shape[:0:-1]:
            strides.insert(0, row if len(strides) == 1 else strides[0] * n)
        self.strides = tuple(strides[: len(self.shape)])
        self.begin = shift * self.dtype.itemsize
        n_bytes = 0
        if 0 not in self.shape:
            n_bytes = self.dtype.itemsize + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        super().__init__(self.begin + n_bytes, name, self.dtype.itemsize, writable)
        self.base = address
        self.address = address + self.begin
        self.end = self.address + n_bytes
        self.view = np.ndarray(self.shape, self.dtype, self.data, self.begin, self.strides)
        self.states(self.view)[...] = UNWRITTEN
        self.all_written = False

    def states(self, view):
        """The states of a view's bytes: one more axis, as long as an element."""
        offset = self.offset_of(view)
        shape, strides = (*view.shape, view.itemsize), (*view.strides, 1)
        return np.ndarray(shape, np.uint8, self.state, offset, strides)

    def offset_of(self, view):
        return view.__array_interface__["data"][0] - self.data.__array_interface__["data"][0]

    def address_of(self, view):
        """Where a view of the buffer lies for kernels."""
        return self.base + self.offset_of(view)

    def put(self, values, view=None):
        """Copy to the GPU."""
        view = self.view if view is None else view
        view[...] = values
        self.states(view)[...] = WRITTEN
        return self

    def get(self, view=None):
        """Copy from the GPU."""
        view = self.view if view is None else view
        unwritten = (self.states(view) != WRITTEN).any(axis=-1)
        if unwritten.any():
            where = tuple(int(i) for i in np.argwhere(unwritten)[0])
            raise Fault("uninitialised", f"{unwritten.sum()} elements of {self.name} were not written, first {where}")
        return view.copy()


class Memory:
    def __init__(self):
        self.buffers = []  # by address
        self.bases = []
        self.next = FIRST_ADDRESS

    def empty(self, shape, dtype, *, name="an array", pad=0, shift=0, readonly=False):
        shape = (shape,) if isinstance(shape, int) else shape
        buffer = Buffer(self.next, shape, dtype, name, not readonly, pad, shift)
        self.buffers.append(buffer)
        self.bases.append(buffer.base)
        self.next += -(-(len(buffer.data) + GAP) // ALIGNMENT) * ALIGNMENT
        return buffer

    def array(self, values, **options):
        values = np.asarray(values)
        return self.empty(values.shape, values.dtype, **options).put(values)

    def rows(self, values, step, **options):
        """Place rows `step` bytes apart, each a buffer of its own: distances beyond 2**32 need no memory then."""
        first = self.array(values[0], **options)
        buffers = [first]
        for i in range(1, len(values)):
            address = first.address + i * step
            self.next = max(self.next, address // ALIGNMENT * ALIGNMENT)
            shift = (address - self.next) // first.dtype.itemsize
            buffers.append(self.array(values[i], **{**options, "shift": shift}))
            assert buffers[i].address == address, "rows overlap"
        return buffers

    def free(self, buffer):
        at = self.bases.index(buffer.base)
        del self.buffers[at], self.bases[at]

    def at(self, address):
        """The buffer that holds an address, or the last one before it; None before the first."""
        at = bisect_right(self.bases, address)
        return self.buffers[at - 1] if at else None

    def start_launch(self):
        for buffer in self.buffers:
            buffer.start_launch()

    def describe(self, address, size):
        """Where an access went that hit no buffer: how far from the nearest."""
        what = f"{size} bytes at {address:#x}"
        if not self.buffers:
            return f"{what}, where nothing is"
        distance, buffer = min(
            ((max(b.address - address, address + size - b.end), b) for b in self.buffers), key=lambda pair: pair[0]
        )
        if address < buffer.address:
            return f"{what}, {distance} before the first of {buffer.name}"
        return (
            f"{what}, {distance - size} after the last of {buffer.name}"
            if distance >= size
            else (f"{what}, across the end of {buffer.name}")
        )
