"""Every GPU kernel compiled and assembled for every kind of device, which needs no GPU; and what came out of it.

The PTX is what the host launches, the machine code what the assembler makes of it. A kernel that spills registers,
keeps something on a stack, computes in float64 by accident, or reads numbers one by one would be right, but slow.
"""

import contextlib
import re

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from fastce.kernels.gpu import kernels, layout, sums
from fastce.kernels.gpu.compile import entry_of, to_ptx

from . import standin
from .compiled import machine_code_of, ptx_of

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
# What the interpreter runs of each of these stands for all of it: the instructions are the same.
ALIKE = (((8, 0), (8, 6), (8, 9)), ((10, 0), (12, 0)))
# The others, which take nearly as long again, by `make slow`.
kinds_of_devices = pytest.mark.parametrize(
    "capabilities",
    [
        pytest.param(standin.CAPABILITIES, id="one of each kind"),
        pytest.param(CAPABILITIES, id="all", marks=pytest.mark.slow),
    ],
)
TYPES = ("float16", "bfloat16", "float32", "float64")
ARITHMETIC_TYPES = ("float32", "float64")
REGISTERS_OF_A_MULTIPROCESSOR = 65536
CLEAN = "bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"  # which the assembler says after "0 "

# Registers of a thread at most, on any device: plain kernels, which are held to that many, those of float64, and
# general ones. A few more than there are now. What is asked for in blocks of 8 is what decides how many warps a
# multiprocessor takes.
REGISTERS = {
    "warp": (96, 120, 216),
    "block": (88, 96, 200),
    "online": (64, 112, 232),
    "part": (96, 112, 224),
    "finish": (96, 128, 128),
}


def ceiling_of(name, dtype, plain):
    return REGISTERS[name][(1 if dtype == "float64" else 0) if plain else 2]


def compiled(kernel, capability):
    """The PTX and the assembler's report."""
    ptx, (code, report) = ptx_of(kernel, capability), machine_code_of(kernel, capability)
    assert code[:4] == b"\x7fELF"
    assert entry_of(ptx).encode() in code
    return ptx, report


def instructions(ptx):
    """The lines of the kernel's body that are instructions or labels."""
    body = ptx[ptx.index("{", ptx.index(".entry")) :]
    lines = [re.sub(r"//.*", "", line).strip() for line in body.splitlines()]
    return [line for line in lines if line and line[0] not in "{}."]


def assert_alike(codes):
    """Compare the instructions for devices of which only one is interpreted."""
    for first, *others in ALIKE:
        for other in set(others) & set(codes):
            assert codes[other] == codes[first], f"{other} and {first}"


def without_names(code):
    """The kernel's own name, in those of its parameters, is another each time."""
    return [re.sub(r"\[\w+_param_(\d+)", r"[\1", line) for line in code]


def blocks_of(code):
    """Basic blocks, as lists of lines, and for each the blocks that may follow it."""
    starts = sorted(
        {0, *(i for i, line in enumerate(code) if line.endswith(":"))}
        | {i + 1 for i, line in enumerate(code[:-1]) if re.match(r"@?.*\b(bra|ret)\b", line)}
    )
    blocks = [code[a:b] for a, b in zip(starts, [*starts[1:], len(code)], strict=True)]
    labels = {block[0][:-1]: i for i, block in enumerate(blocks) if block[0].endswith(":")}
    follow = []
    for i, block in enumerate(blocks):
        jump = re.match(r"(@\S+\s+)?(bra|ret)\S*\s*(\$?\w+)?;", block[-1])
        targets = {labels[jump[3]]} if jump and jump[2] == "bra" else set()
        if not jump or jump[1]:  # a guarded jump may not be taken
            targets |= {i + 1} & set(range(len(blocks)))
        follow.append(targets)
    return blocks, follow


def innermost_loops(code):
    """The lines of loops in which there is no other: of blocks that come back to their first, without that one."""
    blocks, follow = blocks_of(code)
    before = [{i for i, targets in enumerate(follow) if j in targets} for j in range(len(blocks))]
    loops = []
    for last, targets in enumerate(follow):
        for head in targets:
            loop, todo = {head}, [last]
            while todo:
                block = todo.pop()
                if block not in loop:
                    loop.add(block)
                    todo += before[block]
            if 0 not in loop or head == 0:  # else it is not one way in, and no jump back
                loops.append(frozenset(loop))
    innermost = [loop for loop in set(loops) if not any(other < loop for other in loops)]
    return [[line for i in sorted(loop) for line in blocks[i]] for loop in innermost]


def check_machine_code(report, kernel, capability, ceiling):
    assert re.search(rf"\b0 {CLEAN}", report)
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    assert registers <= ceiling
    assert -(-registers // 8) * 8 * kernel.threads * kernel.blocks_on(capability) <= REGISTERS_OF_A_MULTIPROCESSOR


def check_ptx(code):
    text = "\n".join(code)
    assert not re.search(r"^(@\S+\s+)?call", text, re.M), "a call"
    assert not re.search(r"\.local\b|__local_depot", text), "local memory"
    assert not re.search(r"^(@\S+\s+)?(atom|red)\.", text, re.M), "an atomic operation"
    for loop in innermost_loops(code):
        assert not re.search(r"^(@\S+\s+)?(div|rem)\.[su]64", "\n".join(loop), re.M), "a 64-bit division in a loop"


def wide(access, code):
    """How many accesses of 16 bytes there are."""
    pattern = rf"(@\S+\s+)?{access}[\w.:]*\.(v4\.[a-z]32|v2\.[a-z]64)\b"
    return sum(re.match(pattern, line) is not None for line in code)


@pytest.mark.parametrize("name", kernels.NAMES)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "general"])
@pytest.mark.parametrize("dtype", TYPES)
@kinds_of_devices
def test_rows(capabilities, dtype, plain, name):
    codes = {}
    for capability in capabilities:
        kernel = kernels.kernel(name, dtype, plain, capability >= (8, 0) or dtype not in ("float16", "bfloat16"))
        ptx, report = compiled(kernel, capability)
        code = instructions(ptx)
        codes[capability] = without_names(code)
        check_machine_code(report, kernel, capability, ceiling_of(name, dtype, plain))
        check_ptx(code)
        if dtype != "float64":
            assert not re.search(r"\.f64\b", "\n".join(code)), "float64 arithmetic"
        assert wide("ld.global", code) > 0
        if name != "part":
            assert wide("st.global", code) > 0
        if name == "block" or (not plain and name != "finish"):  # of these, the block's memory keeps rows
            assert wide("st.shared", code) > 0
            assert wide("ld.shared", code) > 0
    assert_alike(codes)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in sums.NAMES for dtype in (TYPES if name == "nll" else ARITHMETIC_TYPES)],
)
@kinds_of_devices
def test_sums(capabilities, name, dtype):
    codes = {}
    for capability in capabilities:
        kernel = sums.kernel(name, dtype)
        ptx, report = compiled(kernel, capability)
        check_machine_code(report, kernel, capability, 64)
        check_ptx(instructions(ptx))
        codes[capability] = without_names(instructions(ptx))
    assert_alike(codes)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_it_is_what_users_launch(capability):
    """Though Numba did its part only once, for all kinds of devices."""
    kernel = kernels.kernel("part", "bfloat16", True, capability >= (8, 0))
    of_users = to_ptx(kernel.function, kernel.signature, capability, kernel.threads, kernel.blocks_on(capability))
    assert without_names(instructions(ptx_of(kernel, capability))) == without_names(instructions(of_users))


def test_layout():
    for capability in CAPABILITIES:
        kernel = layout.kernel()
        ptx, report = compiled(kernel, capability)
        check_machine_code(report, kernel, capability, 40)
        check_ptx(instructions(ptx))


def test_checks_notice():
    """What the other tests look for is found where it is, and a jump back that repeats nothing is no loop."""
    code = instructions(
        """.visible .entry kernel(.param .u64 p)
        {
            .reg .pred %p<3>; // registers
            @%p2 bra $L__BB0_4;
        $L__BB0_1:
            ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];
        $L__BB0_2:
            @%p1 div.s64 %rd3, %rd1, %rd2;
            @%p1 bra $L__BB0_2;
            ld.global.nc.L1::no_allocate.v2.b64 {%rd1, %rd2}, [%rd1];
            ld.global.f32 %f1, [%rd1];
            @!%p2 bra.uni $L__BB0_1;
        $L__BB0_3:
            ret;
        $L__BB0_4:
            rem.u64 %rd1, %rd2, %rd3;
            bra.uni $L__BB0_3;
        }"""
    )
    (loop,) = innermost_loops(code)
    assert loop == ["$L__BB0_2:", "@%p1 div.s64 %rd3, %rd1, %rd2;", "@%p1 bra $L__BB0_2;"]
    assert wide("ld.global", code) == 2
    with pytest.raises(AssertionError, match="64-bit division"):
        check_ptx(code)
    check_ptx([line for line in code if "div" not in line])
    for line, what in (
        ("call.uni (retval0), f, (param0);", "a call"),
        ("ld.local.f32 %f1, [%rd1];", "local memory"),
        ("@%p1 atom.global.add.f32 %f1, [%rd1], %f2;", "an atomic operation"),
    ):
        with pytest.raises(AssertionError, match=what):
            check_ptx([line, "ret;"])
    with pytest.raises(AssertionError):
        check_machine_code(f"8 {CLEAN}\nUsed 8 registers", layout.kernel(), (9, 0), 64)
    for blocks, possible in ((4, True), (5, False)):
        kernel = layout.kernel()._replace(threads=256, blocks=blocks)
        with contextlib.nullcontext() if possible else pytest.raises(AssertionError):
            check_machine_code(f"0 {CLEAN}\nUsed 57 registers", kernel, (9, 0), 64)
