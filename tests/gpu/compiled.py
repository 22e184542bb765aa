"""Kernels compiled once for all tests of a process, as it takes longer than most of them."""

from functools import cache

from fastce.kernels.gpu import compile as _compile

to_ptx = cache(_compile.to_ptx)


def ptx_of(kernel, capability):
    """The text that is launched on devices of a compute capability."""
    return to_ptx(kernel.function, kernel.signature, capability, kernel.threads, kernel.blocks)
