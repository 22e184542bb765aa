"""The machine code of the hot loops: vectors, fused multiply-adds, nothing else.

A hot loop is one without another in it; where its body does not branch, it is a basic block that jumps back to itself.
Assembly is read as LLVM prints it for x86-64 (AT&T syntax) and
for 64-bit ARM.
"""

import platform
import re
from functools import cache
from typing import NamedTuple

import llvmlite.binding
import pytest
from numba import cfunc, types

from fastce.kernels.cpu import bfloat16, kernels

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


class Loop(NamedTuple):
    code: list[str]  # from where it jumps back to, in order of address, to the jump
    simple: bool  # nothing else jumps into it


def hot_loops(assembly):
    """Innermost loops of every function, by its symbol."""
    functions, code, labels, jumps = {}, [], {}, []
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


def _innermost(code, labels, jumps):
    """Parts of the code, from label to jump, that no other such part lies in."""
    loops = {(a, b) for a, b in jumps if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in jumps)}
    return [Loop(code[a:b], not any(a < label < b for label in labels.values())) for a, b in sorted(loops)]


def count(pattern, instructions):
    return sum(re.match(pattern, i) is not None for i in instructions)


_X86 = """
	.globl	twice
twice:                                  # @twice
	testq	%rsi, %rsi
	jle	.LBB0_3
.LBB0_1:                                # =>This Inner Loop Header: Depth=1
	vmovups	(%rdi,%rcx,4), %zmm1
	vfmadd213ps	%zmm2, %zmm1, %zmm1 # zmm1 = (zmm1 * zmm1) + zmm2
	vmaxps	%zmm1, %zmm3, %zmm3
	addq	$16, %rcx
	cmpq	%rsi, %rcx
	jl	.LBB0_1
# %bb.2:
	vaddss	%xmm1, %xmm0, %xmm0
.LBB0_3:
	retq
other:
.LBB1_1:
	vmulss	(%rdi,%rcx,4), %xmm0, %xmm0
	callq	*%rax
	vaddsd	%xmm1, %xmm0, %xmm0
	vfmadd213ss	%xmm2, %xmm1, %xmm1
	vmovss	%xmm0, (%rdi)
	vbroadcastss	%xmm0, %zmm0
	decq	%rsi
	jne	.LBB1_1
	jmp	.LBB1_2
.LBB1_2:
	jmp	.LBB1_1
"""
_ARM = """
_twice:
	cbz	x1, LBB0_3
LBB0_1:                                 ; =>This Inner Loop Header: Depth=1
	ldr	q1, [x0], #16
	fmla.4s	v2, v1, v1
	fcmgt	v3.4s, v1.4s, v2.4s
	subs	x1, x1, #4
	b.ne	LBB0_1
LBB0_3:
	ret
other:                                  // @other
.LBB1_1:
	fmul	s0, s0, s1
	fmadd	d0, d0, d1, d2
	bl	expf
	fmla	v2.4s, v1.4s, v1.4s
	cbnz	x1, .LBB1_1
	b	.LBB1_1
"""


@pytest.mark.parametrize(
    ("syntax", "assembly", "good", "calls", "scalar"),
    [("x86-64", _X86, "twice", 1, 3), ("arm64", _ARM, "_twice", 1, 2)],
)
def test_loops_are_found_and_what_is_in_them(syntax, assembly, good, calls, scalar):
    patterns, loops = SYNTAX[syntax], hot_loops(assembly)
    assert set(loops) == {good, "other"}
    ((loop, simple),) = loops[good]
    assert simple
    assert [count(patterns[what], loop) for what in ("call", "scalar", "fused", "largest")] == [0, 0, 1, 1]
    loop, simple = loops["other"][0]
    assert simple
    assert (count(patterns["call"], loop), count(patterns["scalar"], loop)) == (calls, scalar)
    with pytest.raises(AssertionError, match="of other"):
        assert_vectors(loops, "other", syntax)


def assert_vectors(loops, function, syntax, what="fused", at_least=1):
    """Loops without branches have no scalar arithmetic and no call in them, and some loops nothing but vectors."""
    patterns, n_vectors = SYNTAX[syntax], 0
    for code, simple in loops[function]:
        n_scalar = count(patterns["scalar"], code) + count(patterns["call"], code)
        assert n_scalar == 0 or not simple, f"scalars, or a call, in a loop of {function}:\n" + "\n".join(code)
        n_vectors += n_scalar == 0 and count(patterns[what], code) > 0
    assert n_vectors >= at_least, f"{n_vectors} loops of {function} are vectors"


def syntax_here():
    if platform.machine() in ("x86_64", "AMD64") and llvmlite.binding.get_host_cpu_features().get("fma", False):
        return "x86-64"
    return "arm64" if platform.machine() in ("arm64", "aarch64") else None


# What the hot loops of a function consist of, and how many there are at least: some fewer than on x86-64 with AVX-512,
# as whoever has no masks branches more.
HOT = [
    ("look", "largest", 2),
    ("even_sums", "fused", 2),
    ("general_sums", "fused", 2),
    ("write_rows", "fused", 7),
    ("_beside_kept", "fused", 4),
    ("_beside_again", "fused", 4),
    ("write_hessians", "fused", 2),
    ("across_lanes", "fused", 2),
    ("run_groups", "fused", 5),
]


@cache
def assembly_of(element):
    """Of all the work on logits of a type."""

    def without_cache(function):  # what comes from the cache has no assembly to show
        return cfunc(types.void(*[types.int64] * 5), error_model="numpy")(function)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "work", without_cache)
        return kernels.work_on(element)._library.get_asm_str()


def symbols_of(name, loops):
    symbols = [symbol for symbol in loops if f"{len(name)}{name}B" in symbol]  # as they are mangled
    assert symbols, f"no {name} among {sorted(loops)}"
    return symbols


@pytest.mark.skipif(syntax_here() is None, reason="reads the machine code of x86-64 with FMA, and of 64-bit ARM")
@pytest.mark.parametrize("element", [types.float32, types.float64, types.uint16, types.int16], ids=str)
def test_hot_loops_are_vectors_of_fused_multiply_adds(element):
    assembly = assembly_of(element)
    loops, syntax = hot_loops(assembly), syntax_here()
    for name, what, at_least in HOT:
        for symbol in symbols_of(name, loops):
            assert_vectors(loops, symbol, syntax, what, at_least)
    calls = called(assembly)
    single = {"expf", "exp2f", "logf", "log1pf", "tanhf", "fmaf", "fma", "tanh", "exp2"}
    assert not calls & single, calls & single
    assert not {c for c in calls if "trunc" in c or "extend" in c}  # of 16-bit numbers, one by one


# Where bfloat16 is loaded in hot loops, and in how many of them at least it is stored.
OF_BFLOAT16 = {"look": 0, "even_sums": 0, "write_rows": 7, "_beside_kept": 4, "_beside_again": 4}


@pytest.mark.skipif(
    not all(llvmlite.binding.get_host_cpu_features().get(f, False) for f in (bfloat16.ROUNDS, bfloat16.MOVES)),
    reason="reads the machine code of x86-64 with AVX512-VNNI and AVX512-VBMI",
)
def test_hot_loops_convert_bfloat16_by_few_instructions():
    """By ``vpermb`` from memory; back to it by that, and two that nothing else takes."""
    loops = hot_loops(assembly_of(types.int16))
    for name, at_least in OF_BFLOAT16.items():
        for symbol in symbols_of(name, loops):
            n_loaded = n_stored = 0
            for code, _ in loops[symbol]:
                assert count(r"vpmov(zxwd|dw)\b.*%zmm", code) == 0, f"in a loop of {name}:\n" + "\n".join(code)
                n_loaded += count(r"vpermb\b.*%zmm", code) > 0
                n_stored += min(count(r"vfixupimmps\b.*%zmm", code), count(r"vpdpwssds\b.*%zmm", code)) > 0
            assert n_loaded >= 2, f"{n_loaded} loops of {name} load"
            assert n_stored >= at_least, f"{n_stored} loops of {name} store"


def called(assembly):
    """Names of the functions that are called anywhere, by name or by address."""
    calls = set(re.findall(r"\b(?:callq?|jmpq?|blr?)[ \t]+\*?(?:[\w.$]*\$)?([A-Za-z_]\w*)", assembly))
    return calls | set(re.findall(r"movabsq?[ \t]+\$([A-Za-z_]\w*)", assembly))
