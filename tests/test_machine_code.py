"""The machine code of the hot loops: vectors, fused multiply-adds, nothing else; and what is counted in it."""

import gc
import re
from itertools import pairwise

import llvmlite.binding
import pytest
from numba.core.codegen import JITCodeLibrary

from fastce import sysinfo
from fastce.bench import assembly
from fastce.bench.assembly import (
    PARTS,
    PASSES,
    SYNTAX,
    Counts,
    Pass,
    count,
    hot_loops,
    loops_of,
    symbols_of,
    syntax_here,
)
from fastce.kernels.cpu import bfloat16
from fastce.kernels.cpu.call import STREAMS
from fastce.kernels.cpu.maths import FORMAT32, FORMAT64
from fastce.kernels.cpu.parts import Part
from fastce.kernels.cpu.simd import AT_ONCE, NATIVE

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


# What the hot loops of a function consist of, and how many there are at least: some fewer than on x86-64 with AVX-512,
# as whoever has no masks branches more.
HOT = [
    ("look", "largest", 2),
    ("even_sums", "fused", 1),
    ("soft_sums", "fused", 1),
    ("look_short", "fused", 2),
    ("look_soft", "fused", 2),
    ("write_short", "fused", 1),
    ("write_soft", "fused", 1),
    ("general_sums", "fused", 2),
    ("write_rows", "fused", 7 if STREAMS else 4),
    *([("look_streamed", "fused", 4), ("sums_beside", "fused", 4)] if STREAMS else []),
    ("write_hessians", "fused", 2),
    ("across_lanes", "fused", 2),
    ("run_groups", "fused", 5),
]


@pytest.mark.skipif(syntax_here() is None, reason="reads the machine code of x86-64 with FMA, and of 64-bit ARM")
@pytest.mark.parametrize("dtype", assembly.ELEMENTS)
def test_hot_loops_are_vectors_of_fused_multiply_adds(dtype):
    text = assembly.assembly_of(dtype)
    loops, syntax = hot_loops(text), syntax_here()
    for name, what, at_least in HOT:
        symbols = symbols_of(name, loops)
        assert symbols, f"no {name} among {sorted(loops)}"
        for symbol in symbols:
            assert_vectors(loops, symbol, syntax, what, at_least)
    calls = called(text)
    single = {"expf", "exp2f", "logf", "log1pf", "tanhf", "fmaf", "fma", "tanh", "exp2"}
    assert not calls & single, calls & single
    assert not {c for c in calls if "trunc" in c or "extend" in c}  # of 16-bit numbers, one by one


@pytest.mark.skipif(syntax_here() != "x86-64" or not STREAMS, reason="reads the machine code of x86-64 with AVX-512")
@pytest.mark.parametrize("dtype", assembly.ELEMENTS)
@pytest.mark.parametrize("name", ["look_streamed", "sums_beside"])
def test_what_is_to_go_past_the_caches_does(dtype, name):
    """LLVM forgets that where it finds an instruction that writes in another way."""
    loops = hot_loops(assembly.assembly_of(dtype))
    for symbol in symbols_of(name, loops):
        written = [code for code, _ in loops[symbol] if count(r"v?movnt", code)]
        assert len(written) >= 4, f"{len(written)} of {len(loops[symbol])} loops"


@pytest.mark.skipif(AT_ONCE == NATIVE, reason="of machines on which vectors of a row are taken several at once")
@pytest.mark.parametrize("dtype", assembly.ELEMENTS)
def test_vectors_taken_at_once_do_not_wait_for_each_other(dtype):
    """Of the polynomial's steps, the one behind another is of another vector."""
    loops, step = hot_loops(assembly.assembly_of(dtype)), re.compile(r"vfmadd213p[sd]\b.*(%ymm\d+)$")
    n_fused = (3 + len((FORMAT64 if dtype == "float64" else FORMAT32).exp2)) * AT_ONCE // NATIVE
    for name, at_least in {"look_short": 4, "even_sums": 2, "general_sums": 1, "write_rows": 1}.items():
        for symbol in symbols_of(name, loops):
            longest = [code for code, _ in loops[symbol] if count(PARTS["fused"], code) >= n_fused]
            assert len(longest) >= at_least, f"{len(longest)} loops of {name} are of several vectors"
            for code in longest:
                found = [step.match(line) for line in code]
                n_waiting = sum(a is not None and b is not None and a[1] == b[1] for a, b in pairwise(found))
                assert n_waiting <= 1, f"in a loop of {name}:\n" + "\n".join(code)


# Where bfloat16 is loaded in hot loops, and in how many of them at least it is stored.
OF_BFLOAT16 = {"look": 0, "even_sums": 0, "write_rows": 7, "look_streamed": 4, "sums_beside": 4}


@pytest.mark.skipif(
    not all(llvmlite.binding.get_host_cpu_features().get(f, False) for f in (bfloat16.ROUNDS, bfloat16.MOVES)),
    reason="reads the machine code of x86-64 with AVX512-VNNI and AVX512-VBMI",
)
def test_hot_loops_convert_bfloat16_by_few_instructions():
    """By ``vpermb`` from memory; back to it by that, and two that nothing else takes."""
    loops = hot_loops(assembly.assembly_of("bfloat16"))
    for name, at_least in OF_BFLOAT16.items():
        symbols = symbols_of(name, loops)
        assert symbols, f"no {name} among {sorted(loops)}"
        for symbol in symbols:
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


# --- counting


@pytest.mark.parametrize(
    ("instruction", "kinds"),
    [
        ("vfmadd231ps	%zmm2, %zmm28, %zmm6 {%k2} {z}", "arithmetic products"),
        ("vcmpneqps	%zmm29, %zmm3, %k1", "arithmetic"),
        ("kmovw	%eax, %k1", "arithmetic"),
        ("vpermt2ps	%zmm4, %zmm21, %zmm2", "arithmetic"),
        ("vmovaps	%zmm1, %zmm2 {%k1}", "arithmetic"),  # a choice, lane by lane
        ("vmovaps	%zmm1, %zmm2", ""),
        ("vmulps	-8192(%r12,%rdx), %zmm5, %zmm8", "arithmetic products loads"),
        ("vaddps	(%rcx){1to16}, %zmm7, %zmm7 {%k1}", "arithmetic loads"),
        ("vcmpltps	(%rcx), %zmm7, %k1", "arithmetic loads"),
        ("vmovups	(%r8,%rsi), %zmm3", "loads"),
        ("vmovups	(%r9,%rax), %zmm0 {%k1} {z}", "loads"),
        ("vbroadcastss	8(%rsp), %zmm0", "loads"),
        ("vbroadcastss	%xmm0, %zmm0", "arithmetic"),
        ("vpmovzxwd	(%rax), %zmm0", "arithmetic loads"),
        ("vmovups	%zmm24, (%rcx,%r14)", "stores"),
        ("vmovups	%zmm24, (%rcx) {%k1}", "stores"),
        ("vmovntps	%zmm24, (%rcx)", "stores"),
        ("vpmovdw	%zmm1, (%r11,%r10)", "arithmetic stores"),
        ("prefetcht1	(%r15,%rsi)", ""),
        ("addq	$64, %rsi", ""),
    ],
)
def test_what_an_instruction_counts_as(instruction, kinds):
    unit = "vpslld	$23, %zmm0, %zmm0"  # arithmetic of 16 elements
    counts = assembly.counts_of([unit, instruction], Pass("", ("power",)), 4)
    expected = {"all": 2, "arithmetic": 1, "products": 0, "loads": 0, "stores": 0}
    for kind in kinds.split():
        expected[kind] += 1
    assert counts == Counts(**expected)


def test_vectors_of_less_than_512_bits_are_counted_likewise():
    code = ["vpslld	$23, %ymm0, %ymm0"] * 2 + [
        "vfmadd231ps	%ymm2, %ymm8, %ymm6",
        "vaddps	(%rcx), %ymm7, %ymm7",
        "vmulps	%ymm1, %ymm1, %ymm2",
        "vmovaps	%ymm1, %ymm2",
    ]
    assert assembly.counts_of(code, Pass("", ("power",)), 4) == Counts(6, 5, 2, 1, 0)


def test_counts_are_of_sixteen_elements_whatever_the_loop():
    code = [
        "vmaxps	(%rax), %ymm0, %ymm0",
        "vmaxps	32(%rax), %ymm1, %ymm1",
        "vmaxps	64(%rax), %ymm2, %ymm2",
        "jne	.L",
    ]
    assert assembly.counts_of(code, PASSES["largest logit"], 4) == Counts(4 * 16 / 24, 2, 0, 2, 0)
    code = ["vpmovdw	%zmm1, (%rax)", "vmovdqu	%ymm1, 32(%rax)"]  # 16 elements each, of two bytes
    assert assembly.counts_of(code, PASSES["gradient, powers kept"], 2) == Counts(1, 0.5, 0, 0, 1)


@pytest.mark.skipif(
    syntax_here() != "x86-64" or sysinfo.cpu()["vector_bits"] != 512, reason="counts the loops of x86-64 with AVX-512"
)
def test_every_pass_is_found_and_counted():
    counts, loops = assembly.instructions("float32"), hot_loops(assembly.assembly_of("float32"))
    assert list(counts) == list(PASSES)
    # of a power: t, the two that leave f over, Horner's rule; and its sum
    fused = 3 + len(FORMAT32.exp2) + 1
    for code in loops_of(PASSES["sums, powers kept"], loops):  # (of two vectors, for some processors)
        assert count(PARTS["fused"], code) == fused * count(PARTS["power"], code)
    for name in ("sums", "sums of lanes", "gradient, powers again"):
        assert fused < counts[name].arithmetic < 3 * fused
    assert counts["largest logit"][1:] == counts["largest logits of lanes"][1:] == (1, 0, 1, 0)
    assert counts["sums, powers kept"].stores == counts["sums of lanes"].stores == 2
    for name in ("gradient, powers kept", "gradient, rest kept", "gradients of lanes"):
        assert counts[name].arithmetic < counts["gradient, powers again"].arithmetic
        assert counts[name][3:] == (2, 1)
    assert counts["sums"].stores == 0
    assert counts["sums, rest kept"].stores == 1
    assert counts["sums, rest kept"].arithmetic == counts["sums"].arithmetic
    for what in ("powers kept", "rest kept"):
        together = counts[f"gradient beside sums, {what}"]
        apart = [counts[name] for name in ("largest logit", f"sums, {what}", f"gradient, {what}")]
        assert sum(c.arithmetic for c in apart) == together.arithmetic
        assert together.stores == sum(c.stores for c in apart)
    for name in ("rows to lanes", "lanes to rows"):  # 16 rows of 16: four stages of shuffles
        assert 4 <= counts[name].arithmetic < 5
        assert counts[name].stores == 1


def test_nothing_is_compiled_in_vain():
    """As for types that Numba takes a loop's variables to be of, until it comes to the end of the loop."""
    assert assembly.kernels_of("float32")
    # (isinstance would ask a weak reference for what may be gone)
    libraries = [found for found in gc.get_objects() if issubclass(type(found), JITCodeLibrary)]
    used = {called for library in libraries for called in library._linking_libraries}
    parts = [library for library in libraries if isinstance(library, Part)]
    assert len(parts) > 100
    assert [part.name for part in parts if part not in used] == []
