"""The machine code of the CPU kernels: its hot loops, and what these consist of.

A hot loop is one without another in it; where its body does not branch, it is a basic block that jumps back to itself.
Assembly is read as LLVM prints it for x86-64 (AT&T syntax) and for 64-bit ARM; instructions are counted by what they
need of the processor on x86-64 alone.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import llvmlite.binding
from numba import cfunc, types

from fastce.kernels.cpu import kernels
from fastce.kernels.cpu.regimes import REGIMES

# What each machine's instructions look like, up to the operands that say of which kind they are.
SYNTAX = {
    "x86-64": {
        "call": r"call",
        "scalar": r"v?(add|sub|mul|div|sqrt|min|max|fn?m(add|sub)\d+)s[sd]\b",
        "fused": r"vfn?m(add|sub)\d+p[sd]\b.*%[yz]mm",
        "largest": r"vmaxp[sd]\b.*%[yz]mm",
    },
    "arm64": {
        "call": r"blr?\b",
        "scalar": r"f(n?mul|n?madd|n?msub|add|sub|div|sqrt|(min|max)(nm)?)\s+[sdh]\d",
        "fused": r"(fmla|fmls)(\.\w+)?\s+v\d",
        "largest": r"(fmax(nm)?|fcmg[te]|bsl|bit|bif)(\.\w+)?\s+v\d",
    },
}
_JUMP = re.compile(r"(?:j\w+|b\.?\w*|cbn?z|tbn?z)\s+(?:.*,\s*)?([\w.$]+)$")
ELEMENTS = {  # of logits, as they lie in memory
    "float32": types.float32,
    "float64": types.float64,
    "float16": types.uint16,
    "bfloat16": types.int16,
}


class Loop(NamedTuple):
    """Instructions from where it jumps back to, by address, to the jump; whether nothing else jumps into it."""

    code: list[str]
    simple: bool


def syntax_here() -> str | None:
    """Name the syntax of this machine's kernels, if it is one of the table."""
    if platform.machine() in ("x86_64", "AMD64") and llvmlite.binding.get_host_cpu_features().get("fma", False):
        return "x86-64"
    return "arm64" if platform.machine() in ("arm64", "aarch64") else None


@cache
def kernels_of(dtype: str) -> list[Any]:
    """Compile the kernels for logits of a type, as ever.

    If they have been compiled before, once more: what comes from the cache on disk has no assembly to show.
    """

    def without_cache(function: object) -> object:
        return cfunc(types.void(*[types.int64] * 5), error_model="numpy")(function)

    found = []
    for regime in REGIMES:
        compiled = kernels.work_on(ELEMENTS[dtype], regime)
        if compiled.cache_hits:
            with mock.patch.object(kernels, "work", without_cache):
                compiled = kernels.work_on(ELEMENTS[dtype], regime)
        found.append(compiled)
    return found


@cache
def assembly_of(dtype: str) -> str:
    """Give the assembly of ``kernels_of`` a type."""
    return "\n".join(compiled._library.get_asm_str() for compiled in kernels_of(dtype))


def hot_loops(assembly: str) -> dict[str, list[Loop]]:
    """Innermost loops of every function, by its symbol."""
    functions: dict[str, tuple[list[str], dict[str, int], list[tuple[int, int]]]] = {}
    code: list[str] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, int]] = []
    for line in assembly.splitlines():
        line = re.sub(r"\s*(#|//|;).*", "", line) if '"' not in line else line
        if found := re.match(r'"?([^\s"]+)"?:', line):
            if not re.match(r"\.?L|ltmp", found[1]):
                code, labels, jumps = [], {}, []
                functions[found[1]] = code, labels, jumps
            else:
                labels[found[1]] = len(code)
        elif re.match(r"\s+[a-z]", line):
            code.append(line.strip())
            jump = _JUMP.match(code[-1])
            if jump and jump[1] in labels:
                jumps.append((labels[jump[1]], len(code)))
    return {symbol: _innermost(*function) for symbol, function in functions.items()}


def _innermost(code: list[str], labels: dict[str, int], jumps: list[tuple[int, int]]) -> list[Loop]:
    """Parts of the code, from label to jump, that no other such part lies in."""
    loops = {(a, b) for a, b in jumps if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in jumps)}
    return [Loop(code[a:b], not any(a < label < b for label in labels.values())) for a, b in sorted(loops)]


def symbols_of(function: str, symbols: Iterable[str]) -> list[str]:
    """Those of a function by that name, as Numba mangles it."""
    return [symbol for symbol in symbols if f"{len(function)}{function}B" in symbol]


def count(pattern: str, instructions: Iterable[str]) -> int:
    """How many instructions begin so."""
    return sum(re.match(pattern, i) is not None for i in instructions)


# --- what the loops over a row's classes take, on x86-64


class Counts(NamedTuple):
    """Instructions for each 16 elements: all; those of vector arithmetic; that multiply; that read; that write.

    Arithmetic is what is done to vectors and masks but for moves: from memory, to it, and between registers, which a
    processor only renames. What reads memory and computes is counted as both.
    """

    all: float
    arithmetic: float
    products: float
    loads: float
    stores: float


class Pass(NamedTuple):
    """By what a loop of a function is known to be that of a pass: parts that it has, and others that it has not.

    The first part is there once for each vector; `itemsize` is that of its elements, 0 for that of the logits.
    """

    function: str
    parts: tuple[str, ...]
    others: tuple[str, ...] = ()
    itemsize: int = 4


PARTS = {
    "fused": SYNTAX["x86-64"]["fused"],
    "largest": SYNTAX["x86-64"]["largest"],
    "power": r"vpslld\s+\$(23|19)\b",  # the exponent of a power of two to its place
    "rest": r"vmulp[sd]\s+(%\w+), \1,|vpermps\b",  # the square in a power's polynomial, or what is looked up for it
    "counted": r"vaddp[sd]\s[^{]*\{%k\d\}$",  # to a sum, where a mask says so
    "shuffle": r"v(perm|p?unpck|shuf)",
    "widen": r"vcvtps2pd",
    "masked": r"v(maskmov\S+\s.*\)|\S+\s.*\)\s*\{%k\d\})$",  # part of a vector is written
    "part": r"v(p?maskmov\S+\s+[^%]*\(|\S+\s+[^%]*\(.*\{%k\d\}\s*\{z\})",  # is read
    "stream": r"vmovnt",
    "store": r"v(?!movnt)\S+\s.*\)(\s*\{%k\d\})?$",
}
_PRODUCT = r"v(mul|fn?m(add|sub)\d+)p[sd]\b"
_MOVE = r"vmov(nt|[au]p|dq)\S*\s+([^{]*$|.*\()|vp?broadcast\S*\s+[^%]*\("
_LOAD = r"v\S+\s+([^(]*,\s*)?[^%,]*\(.*\)[^,]*,"
_HALVES = r"vpmov\w+\s|vcvtps2ph\s"  # stores of half a register

PASSES = {
    "largest logit": Pass("look", ("largest",), ("power",)),
    "sums, powers kept": Pass("look_short", ("power", "store")),
    "gradient, powers kept": Pass("write_short", ("store", "fused"), ("power",), itemsize=0),
    "sums, rest kept": Pass("even_sums", ("power", "store")),
    "gradient, rest kept": Pass("write_rows", ("power", "store"), ("rest", "stream"), itemsize=0),
    "sums": Pass("even_sums", ("power",), ("store",)),
    "gradient, powers again": Pass("write_rows", ("power", "rest", "store"), ("stream",)),
    "gradient beside sums, powers kept": Pass("look_streamed", ("stream", "counted", "power"), itemsize=0),
    "gradient beside sums, rest kept": Pass("sums_beside", ("stream", "counted", "power"), itemsize=0),
    "rows to lanes": Pass("run_groups", ("store", "shuffle", "part"), ("masked",)),
    "largest logits of lanes": Pass("run_groups", ("largest",), ("power",)),
    "sums of lanes": Pass("_even_sums", ("power", "store")),
    "gradients of lanes": Pass("run_groups", ("store", "fused"), ("power", "shuffle", "widen")),
    "lanes to rows": Pass("run_groups", ("masked", "shuffle"), itemsize=0),
}


def instructions(dtype: str) -> dict[str, Counts]:
    """Count the instructions of each pass in this machine's kernels: of the loop that takes the least arithmetic.

    (A function has several loops for one pass, for the options; the plain one takes the least.) Passes that are not
    found are left out: with vectors of less than 512 bits, some are not loops of this form.
    """
    loops = hot_loops(assembly_of(dtype))
    found = {}
    for name, wanted in PASSES.items():
        counted = [counts_of(code, wanted, 4 if dtype == "float32" else 2) for code in loops_of(wanted, loops)]
        if counted:
            found[name] = min(counted, key=lambda counts: (counts.arithmetic, counts.all))
    return found


def loops_of(wanted: Pass, loops: Mapping[str, Sequence[Loop]]) -> list[list[str]]:
    """Pick the loops of a pass."""
    return [
        loop.code
        for symbol in symbols_of(wanted.function, loops)
        for loop in loops[symbol]
        if all(count(PARTS[part], loop.code) for part in wanted.parts)
        and not any(count(PARTS[part], loop.code) for part in wanted.others)
    ]


def counts_of(code: Sequence[str], wanted: Pass, itemsize: int) -> Counts:
    """Count what a loop takes for each 16 elements."""
    units = [i for i in code if re.match(PARTS[wanted.parts[0]], i)]
    written = [register_bytes(i) // (2 if re.match(_HALVES, i) else 1) for i in units]
    share = 16 * (wanted.itemsize or itemsize) / sum(written)
    vectors = [i for i in code if re.match(r"[vk]", i)]
    stores = count(PARTS["store"], code) + count(PARTS["stream"], code)
    arithmetic = len(vectors) - count(_MOVE, vectors)
    return Counts(*(share * n for n in (len(code), arithmetic, count(_PRODUCT, code), count(_LOAD, code), stores)))


def register_bytes(instruction: str) -> int:
    """Bytes of the widest vector register that an instruction names; 0 if it names none."""
    return max(({"x": 16, "y": 32, "z": 64}[name] for name in re.findall(r"%([xyz])mm", instruction)), default=0)
