"""Read PTX text into kernels: their parameters, registers, shared variables and instructions.

    .visible .entry name(.param .u64 p) { .reg .b32 %r<3>; $L: @%p1 add.s32 %r1, %r2, 7; ... }

A statement is a directive (it begins with a dot), a label, or an instruction:

    @!%p1  ld .global.v4.f32  {%f1, %f2, %f3, %f4}, [%rd1+16] ;
    guard  opcode, modifiers  operands
"""

import re
from functools import lru_cache

from .faults import Refused
from .syntax import Address, Immediate, Instruction, Kernel, Pair, Register, Symbol, Variable, Vector

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |   (?P<string>"[^"]*")
    |   (?P<number>-?(?:0[fF][0-9A-Fa-f]{8}|0[dD][0-9A-Fa-f]{16}|0[xX][0-9A-Fa-f]+|\d+(?:\.\d+)?)U?(?![\w.]))
    |   (?P<word>[%$._A-Za-z][\w$.]*(?:::[\w.]+)*)
    |   (?P<mark>[\[\]{}(),;:|!@<>+=])""",
    re.VERBOSE | re.DOTALL,
)
SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


@lru_cache(maxsize=64)
def parse(text):
    """Give the kernels of a PTX text, by name."""
    return _Parser(text).module()


class _Parser:
    def __init__(self, text):
        self.lines = text.splitlines()
        self.tokens = list(_tokens(text))
        self.at = 0

    # Tokens, one after the other

    def next(self, expected=None):
        line, token = self.tokens[self.at]
        if expected is not None and token != expected:
            raise Refused(f"line {line}: {token!r} where {expected!r} should be")
        self.at += 1
        return token

    def peek(self):
        return self.tokens[self.at][1]

    def take(self, token):
        if self.peek() != token:
            return False
        self.at += 1
        return True

    def refuse(self, what):
        raise Refused(f"line {self.tokens[self.at][0]}: {what} is not implemented")

    # The module: a header, variables, kernels

    def module(self):
        target, shared, kernels = "", {}, {}
        while self.peek() != "":
            token = self.next()
            if token == ".target":
                target = self.next()
                while self.take(","):
                    self.next()
            elif token in (".version", ".address_size"):
                self.next()
            elif token == ".entry":
                kernel = self.kernel(target, shared)
                kernels[kernel.name] = kernel
            elif token == ".shared":
                variable = self.variable()
                shared[variable.name] = variable
            elif token == ".global":
                self.variable()  # Numba's environment. Whoever uses it is refused: no such name
            elif token not in (".visible", ".extern", ".common", ".weak"):
                self.refuse(token)
        return kernels

    def variable(self):
        """`.align 16 .b8 name[64];`; the size in brackets may be missing: the launch gives it."""
        align, size = self.declaration()
        name = self.next()
        if self.take("["):
            size = 0 if self.peek() == "]" else size * _integer(self.next())
            self.next("]")
        if self.peek() not in (";", ",", ")"):
            self.refuse("a variable with a value")
        self.take(";")
        return Variable(name, size, align)

    def declaration(self):
        align = 0
        if self.take(".align"):
            align = _integer(self.next())
        size = SIZES.get(re.sub(r"^\.[busf]", "", self.peek()))
        if size is None:
            self.refuse(f"a variable of type {self.peek()}")
        self.next()
        if self.take(".ptr"):  # what a pointer points to: said for the assembler only
            while self.peek() in (".global", ".shared", ".const", ".local"):
                self.next()
            if self.take(".align"):
                self.next()
        return align or size, size

    def kernel(self, target, shared):
        kernel = Kernel(self.next(), target, self.lines, shared=dict(shared))
        if self.take("("):
            while not self.take(")"):
                self.next(".param")
                variable = self.variable()
                kernel.params[variable.name] = variable
                self.take(",")
        while self.peek() in (".maxntid", ".reqntid", ".minnctapersm", ".maxnreg"):  # for the assembler only
            self.next()
            self.next()
            while self.take(","):
                self.next()
        self.next("{")
        self.body(kernel, [{}])
        return kernel

    # A body: registers have the scope of their braces, so inner ones are renamed

    def body(self, kernel, scopes):
        while scopes:
            line, token = self.tokens[self.at]
            if self.take("{"):
                scopes.append({})
            elif self.take("}"):
                scopes.pop()
            elif self.take(".reg"):
                self.declare_registers(kernel, scopes)
            elif self.take(".shared"):
                variable = self.variable()
                kernel.shared[variable.name] = variable
            elif self.take(".pragma"):
                self.next()
                self.next(";")
            elif self.tokens[self.at + 1][1] == ":":
                kernel.labels[self.next()] = len(kernel.instructions)
                self.next(":")
            elif token.startswith("."):
                self.refuse(token)
            else:
                kernel.instructions.append(self.instruction(len(kernel.instructions), line, scopes))

    def declare_registers(self, kernel, scopes):
        kind = self.next()[1:]
        while True:
            name = self.next()
            names = [name]
            if self.take("<"):
                names = [f"{name}{i}" for i in range(_integer(self.next()))]
                self.next(">")
            for name in names:
                unique = name
                while unique in kernel.registers:
                    unique += "'"
                scopes[-1][name] = unique
                kernel.registers[unique] = kind
            if not self.take(","):
                self.next(";")
                return

    def instruction(self, index, line, scopes):
        guard = None
        if self.take("@"):
            guard = self.register(scopes)
        opcode, *modifiers = self.next().split(".")
        operands = []
        while not self.take(";"):
            operands.append(self.operand(scopes))
            self.take(",")
        return Instruction(index, line, guard, opcode, tuple(modifiers), tuple(operands))

    def operand(self, scopes):
        if self.take("{"):
            parts = []
            while not self.take("}"):
                parts.append(self.operand(scopes))
                self.take(",")
            return Vector(tuple(parts))
        if self.take("["):
            base = self.operand(scopes)
            offset = _integer(self.next()) if self.take("+") else 0
            self.next("]")
            return Address(base, offset)
        if self.peek()[0] in "%!_":
            if self.peek()[0] == "_" and self.peek() != "_":
                return Symbol(self.next())
            first = self.register(scopes)
            return Pair(first, self.register(scopes)) if self.take("|") else first
        token = self.next()
        return Immediate(token) if token[0] in "-0123456789" else Symbol(token)

    def register(self, scopes):
        negated = self.take("!")
        name = self.next()
        for scope in reversed(scopes):
            if name in scope:
                return Register(scope[name], negated)
        return Register(name, negated)


def _tokens(text):
    at, line = 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise Refused(f"line {line}: {text[at : at + 20]!r} is no PTX known here")
        if match.lastgroup != "space":
            yield line, match.group()
        line += match.group().count("\n")
        at = match.end()
    yield line, ""


def _integer(token):
    return int(token.rstrip("U"), 0)
