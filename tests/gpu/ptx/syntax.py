"""What a PTX text consists of: operands, instructions, variables, kernels."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Register:
    name: str  # %tid.x too: a special register is one that nobody declares
    negated: bool = False  # !%p1


@dataclass(frozen=True)
class Immediate:
    text: str  # 7, -1, 0x1F, 0f3F800000 (bits of a float32), 0d3FF0000000000000 (bits of a float64)


@dataclass(frozen=True)
class Symbol:
    name: str  # a variable's address, a label


@dataclass(frozen=True)
class Address:
    base: object  # a Register, a Symbol, or an Immediate
    offset: int


@dataclass(frozen=True)
class Vector:
    parts: tuple  # {%f1, %f2}


@dataclass(frozen=True)
class Pair:
    first: object  # %r1|%p1: two destinations
    second: object


@dataclass(frozen=True)
class Instruction:
    index: int
    line: int  # of the text, from 1
    guard: Register | None
    opcode: str
    modifiers: tuple  # ("global", "v4", "f32")
    operands: tuple

    @property
    def name(self):
        return ".".join((self.opcode, *self.modifiers))


@dataclass(frozen=True)
class Variable:
    name: str
    size: int  # bytes; 0 for memory whose size the launch gives
    align: int


@dataclass
class Kernel:
    name: str
    target: str
    lines: list  # of the whole text
    params: dict = field(default_factory=dict)  # name -> Variable
    shared: dict = field(default_factory=dict)  # name -> Variable
    registers: dict = field(default_factory=dict)  # name -> type
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name -> index of an instruction

    def text(self, instruction):
        return self.lines[instruction.line - 1].strip()
