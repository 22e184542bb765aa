"""Break a kernel in one place at a time, as a slip of its author might have, to show that the tests notice.

    assert survivors(ptx, check) == []

What is broken: a barrier is removed; a comparison of whole numbers takes or leaves the bound itself; a warp instruction
has a mask without its last lane; a shuffle has another distance; an access goes one element further, which misaligns
those of vectors. Instructions that did not run, by the counters, are left alone, as nobody could notice.
Left out are also those that do no other work than before, and stores that nobody reads: see `survives`.
"""

import re
from dataclasses import dataclass

from .faults import Fault
from .parser import parse

OTHER_BOUND = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "lo": "ls", "ls": "lo", "hi": "hs", "hs": "hi"}
SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Mutant:
    kind: str  # "barrier", "bound", "mask", "distance" or "access"
    line: int
    before: str
    after: str
    text: str  # of the whole PTX

    def __str__(self):
        return f"{self.kind}, line {self.line}: {self.before} -> {self.after or 'nothing'}"


def mutants(ptx, counters=None, kinds=("barrier", "bound", "mask", "distance", "access"), name=None):
    """Give every mutant of a kernel, or of the instructions that ran."""
    kernels = parse(ptx)
    kernel = kernels[name] if name else next(iter(kernels.values()))
    for instruction in kernel.instructions:
        if counters is not None and not counters.issued[instruction.index]:
            continue
        line = kernel.lines[instruction.line - 1]
        for kind, after in _changes(instruction, line.strip()):
            if kind in kinds:
                lines = [*kernel.lines]
                lines[instruction.line - 1] = after
                yield Mutant(kind, instruction.line, line.strip(), after, "\n".join(lines))


def _changes(instruction, text):
    opcode, modifiers = instruction.opcode, instruction.modifiers
    if opcode in ("bar", "barrier"):
        yield "barrier", ""
    elif opcode == "setp" and modifiers[0] in OTHER_BOUND and modifiers[-1][0] in "us":
        yield "bound", text.replace(f"setp.{modifiers[0]}.", f"setp.{OTHER_BOUND[modifiers[0]]}.")
    elif opcode in ("shfl", "vote", "redux"):
        yield "mask", _with_operand(text, -1, "0x7FFFFFFF")
        if opcode == "shfl":
            # Twice the distance, which reductions have had already. (Three times could do as well as once.)
            distance = _operands(text)[1][2]
            twice = f"{{ .reg .b32 %twice; shl.b32 %twice, {distance}, 1; {_with_operand(text, 2, '%twice')} }}"
            yield "distance", twice
    elif opcode in ("ld", "st") and {"global", "shared"} & set(modifiers):
        size = SIZES[modifiers[-1].lstrip("busf")]
        address = instruction.operands[opcode == "ld"]
        yield "access", re.sub(r"(?:\+-?\d+)?\]", f"+{address.offset + size}]", text, count=1)


def _with_operand(text, i, value):
    """The text with an operand replaced."""
    head, operands = _operands(text)
    operands[i] = value
    return f"{head}{', '.join(operands)};"


def _operands(text):
    head, operands = re.match(r"((?:@!?\S+\s+)?\S+\s+)(.*);", text).groups()
    return head, [operand.strip() for operand in operands.split(",")]


@dataclass(frozen=True)
class Outcome:
    """What a run of a kernel did, and gave: bytes, where they matter."""

    counters: object
    results: bytes | None = None


def survivors(ptx, check, **options):
    """Give the mutants that nobody notices, but for those that nobody could.

    `check` runs a PTX text, raises if its results are wrong, and gives an Outcome.
    """
    before = check(ptx)
    return [mutant for mutant in mutants(ptx, before.counters, **options) if survives(mutant, check, before)]


def survives(mutant, check, before):
    """Whether nobody notices, though somebody could: on these inputs, it does something else than before."""
    after = _run(mutant.text, check)
    if after is None:
        return False
    if mutant.kind == "bound":
        return not (_same_comparison(before, after) or _same_work(before, after))
    if mutant.kind == "access" and re.match(r"(@!?\S+\s+)?st\.", mutant.before):
        lines = mutant.text.splitlines()
        lines[mutant.line - 1] = ""
        return _run("\n".join(lines), check) is None  # else nobody reads what is stored
    return True


def _run(text, check):
    """The outcome, or None if the text is noticed to be wrong."""
    try:
        return check(text)
    except (Fault, AssertionError):
        return None


def _same_comparison(before, after):
    """It comes out the same for every thread."""
    return (after.counters.true == before.counters.true).all()


def _same_work(before, after):
    """As much is read and written, with the same results: what one loop leaves, the one after it does."""
    moved = ([traffic.bytes for traffic in outcome.counters.traffic.values()] for outcome in (before, after))
    return before.results is not None and before.results == after.results and len(set(map(tuple, moved))) == 1
