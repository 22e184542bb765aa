"""How every GPU kernel is compiled: to PTX by Numba, which needs no GPU, and to machine code by NVIDIA's linker.

The host launches what is made here, and the tests read, assemble and interpret the very same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from numba import cuda
from numba.cuda import types
from numba.cuda.compiler import compile_cuda
from numba.cuda.dispatcher import CUDADispatcher

from .. import interrupts

F = TypeVar("F", bound=Callable[..., Any])


class _Inlined(CUDADispatcher):
    """A function that becomes part of its callers.

    Numba asks the driver what device to compile it for, though what it makes of it is the same for every device. (Its
    other way of inlining, before types are known, asks nobody but takes several times as long.)
    """

    def compile_device(self, args: Any, return_type: Any = None) -> Any:
        if args not in self.overloads:
            interrupts.deliver()
            made = compile_cuda(
                self.py_func, return_type, args, forceinline=True, nvvm_options=_OPTIONS, cc=_ANY_CAPABILITY
            )
            self.overloads[args] = made
            made.target_context.insert_user_function(made.entry_point, made.fndesc, [made.library])
        return self.overloads[args]


_OPTIONS = {"opt": 3, "fastmath": False}
_ANY_CAPABILITY = (7, 5)


def inline(function: F) -> F:
    """Part of a kernel: becomes part of whoever calls it."""
    compiled: F = _Inlined(function, targetoptions={"device": True, "extensions": []})
    return compiled


def to_ptx(
    kernel: Callable[..., None], signature: types.Type, capability: tuple[int, int], threads: int, blocks: int
) -> str:
    """Assembly of a kernel for devices of a compute capability, for blocks of ``threads`` at most.

    A multiprocessor is to have registers for that many ``blocks``.

    No ``fastmath``: the kernels say themselves what is approximate, so that NaN and infinity keep their meaning.
    """
    ptx, _ = cuda.compile(
        kernel, signature, device=False, abi="numba", cc=capability, output="ptx", launch_bounds=(threads, blocks)
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
