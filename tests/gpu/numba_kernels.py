"""Kernels in Numba, for the tests of the interpreter: how real ones are built, each idea in few lines.

softmax_by_blocks: a block for each row, its partial results in shared memory.
softmax_by_warps: a warp for each row, shuffles and a vote in place of shared memory.
scale_by_vectors: 16-byte accesses, float16 and bfloat16 widened and rounded back.
"""

from math import exp, inf

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-inf)
WARPS = 4  # of a block


def softmax_by_blocks(x, y):
    partial = cuda.shared.array(WARPS, types.float32)
    row, thread, n = cuda.blockIdx.x, cuda.threadIdx.x, x.shape[1]
    highest = LOWEST
    i = thread
    while i < n:
        highest = max(highest, x[row, i])
        i += cuda.blockDim.x
    distance = 16
    while distance > 0:
        highest = max(highest, cuda.shfl_xor_sync(0xFFFFFFFF, highest, distance))
        distance >>= 1
    if thread & 31 == 0:
        partial[thread >> 5] = highest
    cuda.syncthreads()
    for i in range(WARPS):
        highest = max(highest, partial[i])
    cuda.syncthreads()
    total = ZERO
    i = thread
    while i < n:
        total += exp(x[row, i] - highest)
        i += cuda.blockDim.x
    distance = 16
    while distance > 0:
        total += cuda.shfl_xor_sync(0xFFFFFFFF, total, distance)
        distance >>= 1
    if thread & 31 == 0:
        partial[thread >> 5] = total
    cuda.syncthreads()
    total = ZERO
    for i in range(WARPS):
        total += partial[i]
    i = thread
    while i < n:
        y[row, i] = exp(x[row, i] - highest) * (ONE / total)
        i += cuda.blockDim.x


def softmax_by_warps(x, y, positive):
    row = cuda.blockIdx.x * WARPS + (cuda.threadIdx.x >> 5)
    lane, n = cuda.laneid, x.shape[1]
    if row >= x.shape[0]:
        return
    highest, any_positive = LOWEST, False
    i = lane
    while i < n:
        highest = max(highest, x[row, i])
        any_positive |= x[row, i] > ZERO
        i += 32
    for i in range(5):
        highest = max(highest, cuda.shfl_xor_sync(0xFFFFFFFF, highest, 16 >> i))
    total = ZERO
    i = lane
    while i < n:
        total += exp(x[row, i] - highest)
        i += 32
    for i in range(5):
        total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 16 >> i)
    lanes = cuda.ballot_sync(0xFFFFFFFF, any_positive)
    if lane == 0:
        positive[row] = cuda.popc(lanes)
    i = lane
    while i < n:
        y[row, i] = exp(x[row, i] - highest) / total
        i += 32


# 16 bytes at once: Numba loads element by element, and its compiler takes vectors of halves apart, but not assembly

I16, I32, F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()
FOUR_WORDS = ir.LiteralStructType([I32] * 4)
LOAD = ir.FunctionType(FOUR_WORDS, [ir.IntType(64)]), "ld.global.nc.L1::no_allocate.v4.b32 {$0, $1, $2, $3}, [$4];"
STORE = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] + [I32] * 4), "st.global.cs.v4.b32 [$0], {$1, $2, $3, $4};"


def _scaled_word(builder, name, word, scale):
    """One float32, or two halves: computed in float32 and rounded once."""
    if name == "float32":
        return builder.bitcast(builder.fmul(builder.bitcast(word, F32), scale), I32)
    result = I32(0)
    for shift in (0, 16):
        bits = builder.trunc(builder.lshr(word, I32(shift)), I16)
        if name == "float16":
            value = builder.fpext(builder.bitcast(bits, ir.HalfType()), F32)
            half = builder.bitcast(builder.fptrunc(builder.fmul(value, scale), ir.HalfType()), I16)
        else:
            value = builder.bitcast(builder.shl(builder.zext(bits, I32), I32(16)), F32)
            rounded = ir.InlineAsm(ir.FunctionType(I16, [F32]), "cvt.rn.bf16.f32 $0, $1;", "=h,f")
            half = builder.call(rounded, [builder.fmul(value, scale)])
        result = builder.or_(result, builder.shl(builder.zext(half, I32), I32(shift)))
    return result


def _scale_16_bytes(name):
    @intrinsic
    def scaled(typing_context, x, y, scale):
        def lower(context, builder, signature, arguments):
            x, y, scale = arguments
            loaded = builder.call(ir.InlineAsm(*LOAD, "=r,=r,=r,=r,l"), [x])
            words = [_scaled_word(builder, name, builder.extract_value(loaded, i), scale) for i in range(4)]
            builder.call(ir.InlineAsm(*STORE, "l,r,r,r,r", side_effect=True), [y, *words])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32), lower

    return scaled


def scale_by_vectors(name):
    scaled = _scale_16_bytes(name)

    def kernel(x, y, n, scale):
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            scaled(x + 16 * i, y + 16 * i, scale)

    return kernel


MATRIX = types.float32[:, ::1]
SIGNATURES = {
    softmax_by_blocks: types.void(MATRIX, MATRIX),
    softmax_by_warps: types.void(MATRIX, MATRIX, types.int32[::1]),
}
VECTORS = types.void(types.int64, types.int64, types.int64, types.float32)


def compile_to_ptx(kernel, capability, fastmath=True):
    signature = SIGNATURES.get(kernel, VECTORS)
    ptx, _ = cuda.compile(kernel, signature, device=False, abi="numba", cc=capability, fastmath=fastmath, output="ptx")
    return ptx
