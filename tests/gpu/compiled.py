"""Kernels compiled once, as it takes longer than most tests: kept for all of a process, and on disk for the next one.

What is on disk is of these sources, and of these versions of compiler and assembler, as what a user has there is.
"""

import pickle
import zlib
from functools import cache, lru_cache
from unittest import mock

from numba.cuda import compiler

from fastce.kernels.files import Files
from fastce.kernels.gpu import saved
from fastce.kernels.gpu.compile import to_machine_code, to_ptx

_of_users = saved._files()
_files = Files(_of_users.folder, "tests", _of_users.stamp) if _of_users else None

_NUMBAS_OWN = "_compile_pyfunc_with_fixup"  # all that it does before NVIDIA's compiler is told the device
_numbas_own = lru_cache(maxsize=4)(getattr(compiler, _NUMBAS_OWN))  # (each takes megabytes)


def _of_any_device(*args, cc, **options):
    return _numbas_own(*args, cc=(7, 5), **options)


@cache
def ptx_of(kernel, capability):
    """The text that is launched on devices of a compute capability."""
    return _kept(("PTX", kernel.name, capability), lambda: _compiled(kernel, capability))


def _compiled(kernel, capability):
    """As for users, but Numba's own part is the same for all devices, and half of the work: it is done once for all."""
    with mock.patch.object(compiler, _NUMBAS_OWN, _of_any_device):
        return to_ptx(kernel.function, kernel.signature, capability, kernel.threads, kernel.blocks_on(capability))


@cache
def machine_code_of(kernel, capability):
    """What is loaded there, and the assembler's report."""
    return _kept(
        ("machine code", kernel.name, capability), lambda: to_machine_code(ptx_of(kernel, capability), capability)
    )


def _kept(key, make):
    found = _files and _files.load(key)
    if found is not None:
        return pickle.loads(zlib.decompress(found))
    made = make()
    if _files:
        _files.save(key, zlib.compress(pickle.dumps(made), level=1))
    return made
