"""The two ways a kernel can fail here: it does something wrong, or something that is not implemented."""

KINDS = {
    "bounds": "an access outside every buffer, or in the padding of one",
    "misaligned": "an access of n bytes at an address that is no multiple of n",
    "read-only": "a store to memory that the kernel may only read",
    "uninitialised": "a register, or a byte of memory, is used before anything was written to it",
    "race": "two threads use the same memory, one of them writing, and no barrier orders them",
    "mask": "a .sync instruction whose mask names the wrong lanes",
    "lane": "a shuffle takes its value from a lane that does not take part",
    "barrier": "bar.sync is not reached by all threads of the block together",
    "deadlock": "threads wait for threads that will never come",
    "endless": "more instructions than any kernel of ours runs",
    "value": "a result that the manual leaves open, such as that of an integer division by zero",
}


class Fault(Exception):
    """A kernel did what the PTX manual forbids or leaves undefined; `kind` is one of the words above."""

    def __init__(self, kind, message):
        assert kind in KINDS, kind
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Refused(Exception):
    """The PTX holds an opcode, a modifier, a type or a directive that is not implemented."""
