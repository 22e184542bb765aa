"""Small kernels written in PTX, for the tests of the interpreter."""

import numpy as np

from .ptx import Memory, launch
from .ptx.values import DTYPES

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
REGISTERS = (
    ".reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %rd<32>; .reg .f64 %fd<16>;"
)


def kernel(body, n_params=1, shared=""):
    """A kernel whose parameters are addresses: %rd0, %rd1, ... Its thread's number is %r0."""
    params = ", ".join(f".param .u64 p{i}" for i in range(n_params))
    loads = "\n".join(f"ld.param.u64 %rd{i}, [p{i}];" for i in range(n_params))
    lines = (REGISTERS, loads, "mov.u32 %r0, %tid.x;", body, "ret;")
    return f"{HEADER}{shared}\n.visible .entry k({params})\n{{\n" + "\n".join(lines) + "\n}\n"


def compute(body, kind, block=32, grid=1, shared="", memory=None, **options):
    """Run instructions that leave a value of some type in %out; give it for each thread of each block."""
    memory = Memory() if memory is None else memory
    n = int(np.prod(block)) * grid
    to = memory.empty(n, DTYPES[kind])
    lines = f"""
        .reg .{_register(kind)} %out; {body}
        mov.u32 %r30, %ctaid.x; mov.u32 %r31, {n // grid}; mad.lo.u32 %r30, %r30, %r31, %r0;
        mad.wide.u32 %rd31, %r30, {DTYPES[kind].itemsize}, %rd0; st.global.{_memory(kind)} [%rd31], %out;"""
    launch(kernel(lines, shared=shared), grid, block, [to], memory=memory, **options)
    return to.get()


def evaluate(instruction, result, *sources, error=None):
    """Execute one instruction for each element of its sources, pairs of a type and values; give the results.

    Values of a predicate are bools, those of bfloat16 and of pairs of halves are bits.
    """
    lines, inputs = [], []
    for i, (kind, values) in enumerate(sources):
        value = np.asarray(values, np.uint8 if kind == "pred" else DTYPES[kind])
        inputs.append(value)
        lines.append(f".reg .{_register(kind)} %s{i};")
        lines.append(f"mad.wide.u32 %rd10, %r0, {value.itemsize}, %rd{i + 1};")
        if kind == "pred":
            lines.append(f"ld.global.u8 %r1, [%rd10]; setp.ne.u32 %s{i}, %r1, 0;")
        else:
            lines.append(f"ld.global.{_memory(kind)} %s{i}, [%rd10];")
    size = 4 if result == "pred" else DTYPES[result].itemsize
    lines.append(f".reg .{_register(result)} %d; {instruction} %d, {', '.join(f'%s{i}' for i in range(len(sources)))};")
    if result == "pred":
        lines.append(".reg .b32 %e; selp.b32 %e, 1, 0, %d;")
    lines.append(f"mad.wide.u32 %rd10, %r0, {size}, %rd0;")
    lines.append(
        f"st.global.{'b32' if result == 'pred' else _memory(result)} [%rd10], {'%e' if result == 'pred' else '%d'};"
    )
    memory = Memory()
    n = len(inputs[0])
    to = memory.empty(n, np.uint32 if result == "pred" else DTYPES[result])
    buffers = [memory.array(value, readonly=True) for value in inputs]
    ptx = kernel("\n".join(lines), 1 + len(inputs))
    launch(ptx, 1, n, [to, *buffers], memory=memory, error=error)
    return to.get().astype(bool) if result == "pred" else to.get()


def _register(kind):
    return {"u8": "b16", "s8": "b16", "b8": "b16"}.get(
        kind, kind if kind == "pred" else f"b{8 * DTYPES[kind].itemsize}"
    )


def _memory(kind):
    return kind if kind[0] in "us" else f"b{8 * DTYPES[kind].itemsize}"


def bits(values, dtype):
    """Values as bits, so that NaN and the signs of zeros are compared, too."""
    values = np.asarray(values, dtype)
    return values.view(f"u{values.itemsize}")


def assert_same_bits(actual, expected):
    expected = np.asarray(expected, actual.dtype)
    np.testing.assert_array_equal(bits(actual, actual.dtype), bits(expected, actual.dtype))
