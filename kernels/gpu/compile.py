"""How every GPU kernel is compiled: to PTX by Numba, which needs no GPU, and to machine code by NVIDIA's linker.

The host launches what is made here, and the tests read, assemble and interpret the very same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from numba import cuda
from numba.cuda import types

F = TypeVar("F", bound=Callable[..., Any])


def inline(function: F) -> F:
    """Part of a kernel: becomes part of whoever calls it.

    (Numba would ask the driver for a device to compile a function that is called.)
    """
    compiled: F = cuda.jit(device=True, inline="always")(function)
    return compiled


def to_ptx(kernel: Callable[..., None], signature: types.Type, capability: tuple[int, int], threads: int) -> str:
    """Assembly of a kernel for devices of a compute capability, for blocks of ``threads`` at most.

    No ``fastmath``: the kernels say themselves what is approximate, so that NaN and infinity keep their meaning.
    """
    ptx, _ = cuda.compile(
        kernel, signature, device=False, abi="numba", cc=capability, output="ptx", launch_bounds=threads
    )
    result: str = ptx
    return result


def entry_of(ptx: str) -> str:
    """The name of the kernel in its assembly."""
    found = re.search(r"\.entry\s+([\w$]+)", ptx)
    assert found is not None
    return found[1]


def to_machine_code(ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code, and the assembler's report on registers, stack and spills."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=f"sm_{capability[0]}{capability[1]}", ptxas_options=["-v"], verbose=True)
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    code = linker.link("cubin").code
    return bytes(code), linker.get_info_log()
