"""What the instructions that only compute have in common: an operation on arrays, found from name and modifiers."""

from dataclasses import dataclass

from .faults import Refused
from .values import DTYPES, is_type


@dataclass(frozen=True)
class Operation:
    """A function of arrays: one for each source operand, of the `sources` types, to one of the `result` type."""

    function: object
    result: str
    sources: tuple
    approximate: bool = False  # takes the error of approximations, too
    known: object = None  # of values and what is known of them: what is known of the result, where it may be less


def same(function, kind, count=2):
    return Operation(function, kind, (kind,) * count)


class Modifiers:
    """The modifiers of an instruction, taken one by one. Whatever nobody took is refused."""

    def __init__(self, instruction):
        self.name = instruction.name
        self.left = list(instruction.modifiers)

    def take(self, *choices):
        """Give the one of these that is there, or None."""
        for choice in choices:
            if choice in self.left:
                self.left.remove(choice)
                return choice
        return None

    def flag(self, name):
        return self.take(name) is not None

    def need(self, *choices):
        choice = self.take(*choices)
        if choice is None:
            self.refuse(f"without one of {', '.join(choices)}")
        return choice

    def type(self, *allowed):
        """Take the last modifier, a type."""
        if not self.left or not is_type(self.left[-1]) or (allowed and self.left[-1] not in allowed):
            self.refuse(f"of another type than {', '.join(allowed) or 'those of registers'}")
        return self.left.pop()

    def done(self):
        if self.left:
            self.refuse(f"with .{' .'.join(self.left)}")

    def refuse(self, why="in this form"):
        raise Refused(f"{self.name}: {why} is not implemented")


INTEGERS = ("u16", "s16", "u32", "s32", "u64", "s64")
FLOATS = ("f32", "f64")
BITS = ("b16", "b32", "b64")


def size(name):
    return DTYPES[name].itemsize
