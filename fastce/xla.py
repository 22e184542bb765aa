"""XLA's foreign function interface: a Python function computes what a compiled program of XLA asks for, on its memory.

XLA calls a C function with a call frame, whose layout the header `xla/ffi/api/c_api.h` of jaxlib documents: the
structures below repeat the parts read here. That function is `_NATIVE`, a few lines that call Python, made by LLVM when
this is imported. (A callback of ctypes would do, but for one thing: it returns garbage when Python raises outside of
what can be caught, as for Ctrl-C at the entry of a function, and XLA takes what it returns for a pointer.)
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import jax
import llvmlite.binding as llvm
import ml_dtypes
import numpy as np

from .kernels.task import Array

try:
    ffi: Any = importlib.import_module("jax.ffi")
except ImportError:  # before jax 0.5
    ffi = importlib.import_module("jax.extend.ffi")

# Fills arrays (the last) from arrays (the first) as a string says.
Function = Callable[[Sequence[Array], Sequence[Array], str], None]


# Layouts: from version 0.1 of the interface, of jaxlib 0.4.38, until 0.3, of jaxlib 0.10, at least --------------------


def _struct(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_START = {"struct_size": c_size_t, "extension_start": c_void_p}
_ErrorArgs = _struct("XLA_FFI_Error_Create_Args", **_START, message=c_char_p, errc=c_int)
_Version = _struct("XLA_FFI_Api_Version", **_START, major_version=c_int, minor_version=c_int)
_CreateError = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArgs))
_Api = _struct("XLA_FFI_Api", **_START, api_version=_Version, internal_api=c_void_p, XLA_FFI_Error_Create=_CreateError)

_Extension = _struct("XLA_FFI_Extension_Base", struct_size=c_size_t, type=c_int, next=c_void_p)
_Metadata = _struct("XLA_FFI_Metadata", struct_size=c_size_t, api_version=_Version, traits=c_uint32)
_MetadataExtension = _struct("XLA_FFI_Metadata_Extension", extension_base=_Extension, metadata=POINTER(_Metadata))

_Buffer = _struct("XLA_FFI_Buffer", **_START, dtype=c_int, data=c_void_p, rank=c_int64, dims=POINTER(c_int64))
_Text = _struct("XLA_FFI_ByteSpan", ptr=c_void_p, len=c_size_t)
_LIST = {**_START, "size": c_int64, "types": POINTER(c_int)}
_Args = _struct("XLA_FFI_Args", **_LIST, args=POINTER(POINTER(_Buffer)))
_Rets = _struct("XLA_FFI_Rets", **_LIST, rets=POINTER(POINTER(_Buffer)))
_Attrs = _struct("XLA_FFI_Attrs", **_LIST, names=POINTER(POINTER(_Text)), attrs=POINTER(POINTER(_Text)))
_CallFrame = _struct(
    "XLA_FFI_CallFrame", **_START, api=POINTER(_Api), ctx=c_void_p, stage=c_int, args=_Args, rets=_Rets, attrs=_Attrs
)

# By the header's numbers. Only types that jax.numpy has are handed on by JAX.
_DTYPES = {
    1: np.dtype(np.bool_),
    2: np.dtype(np.int8),
    3: np.dtype(np.int16),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    6: np.dtype(np.uint8),
    7: np.dtype(np.uint16),
    8: np.dtype(np.uint32),
    9: np.dtype(np.uint64),
    10: np.dtype(np.float16),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
    16: np.dtype(ml_dtypes.bfloat16),
}
_METADATA = 1  # the type of an extension
_CANCELLED, _INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _OUT_OF_RANGE, _INTERNAL = 1, 3, 8, 11, 13
_CODES = (
    (IndexError, _OUT_OF_RANGE),
    (MemoryError, _RESOURCE_EXHAUSTED),
    (TypeError, _INVALID_ARGUMENT),
    (ValueError, _INVALID_ARGUMENT),
)


# A call ---------------------------------------------------------------------------------------------------------------


def _answer(function: Function, version: tuple[int, int], address: int) -> int:
    """Do what the call frame at an address asks for; give the address of an error of XLA's, or 0."""
    frame = _CallFrame.from_address(address)
    if frame.extension_start:
        extension = _MetadataExtension.from_address(frame.extension_start)
        if extension.extension_base.type == _METADATA:  # XLA asks what the function was made for
            extension.metadata.contents.api_version = _Version(ctypes.sizeof(_Version), None, *version)
            extension.metadata.contents.traits = 0
            return 0
    try:
        args, rets, text = frame.args, frame.rets, frame.attrs.attrs[0].contents
        function(
            [_array(args.args[i].contents) for i in range(args.size)],
            [_array(rets.rets[i].contents) for i in range(rets.size)],
            ctypes.string_at(text.ptr, text.len).decode(),
        )
    except KeyboardInterrupt:
        raise  # to `_NATIVE`
    except BaseException as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), _INTERNAL)
        message = f"{type(error).__name__}: {error}".encode()
        created = frame.api.contents.XLA_FFI_Error_Create(ctypes.byref(_error(message, code)))
        return int(created)
    return 0


def _array(buffer: Any) -> Array:
    """Give an array on the memory of a buffer, which is C-contiguous."""
    dtype, shape = _DTYPES[buffer.dtype], tuple(buffer.dims[: buffer.rank])
    n_bytes = math.prod(shape) * dtype.itemsize
    if not n_bytes:  # a null pointer, maybe
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, (ctypes.c_char * n_bytes).from_address(buffer.data))


def _error(message: bytes, code: int) -> Any:
    return _ErrorArgs(_ErrorArgs.errc.offset + ctypes.sizeof(c_int), None, message, code)


# What XLA calls. Once Python ends, no other thread can take its lock: it would be killed, and XLA wait for it for ever.
# What Python raises outside of `try` is an error too: a Ctrl-C, which Python is told to raise again once XLA has
# returned, or too deep a recursion, or too little memory, which is printed.
_NATIVE = """
declare i32 @PyGILState_Ensure()
declare void @PyGILState_Release(i32)
declare ptr @PyLong_FromVoidPtr(ptr)
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyObject_CallFunctionObjArgs(ptr, ...)
declare void @Py_DecRef(ptr)
declare i32 @PyErr_ExceptionMatches(ptr)
declare void @PyErr_Clear()
declare void @PyErr_SetInterrupt()
declare void @PyErr_WriteUnraisable(ptr)

define ptr @call(ptr %frame) {{
  %inside = inttoptr i64 {inside} to ptr
  %closed = inttoptr i64 {closed} to ptr
  atomicrmw add ptr %inside, i32 1 seq_cst
  %leaving = load atomic i32, ptr %closed seq_cst, align 4
  %open = icmp eq i32 %leaving, 0
  br i1 %open, label %enter, label %refuse
enter:
  %answer = call ptr @python(ptr %frame)
  br label %done
refuse:
  %error = call ptr @failed(ptr %frame)
  br label %done
done:
  %result = phi ptr [ %answer, %enter ], [ %error, %refuse ]
  atomicrmw sub ptr %inside, i32 1 seq_cst
  ret ptr %result
}}

define internal ptr @python(ptr %frame) {{
  %function = inttoptr i64 {function} to ptr
  %gil = call i32 @PyGILState_Ensure()
  %address = call ptr @PyLong_FromVoidPtr(ptr %frame)
  %answer = call ptr (ptr, ...) @PyObject_CallFunctionObjArgs(ptr %function, ptr %address, ptr null)
  call void @Py_DecRef(ptr %address)
  %raised = icmp eq ptr %answer, null
  br i1 %raised, label %exception, label %answered
answered:
  %given = call ptr @PyLong_AsVoidPtr(ptr %answer)
  call void @Py_DecRef(ptr %answer)
  br label %done
exception:
  %matches = call i32 @PyErr_ExceptionMatches(ptr inttoptr (i64 {interrupt} to ptr))
  %interrupted = icmp ne i32 %matches, 0
  br i1 %interrupted, label %interrupt, label %other
interrupt:
  call void @PyErr_Clear()
  %cancelled = call ptr @failed(ptr %frame)
  call void @PyErr_SetInterrupt()
  br label %done
other:
  call void @PyErr_WriteUnraisable(ptr %function)
  %error = call ptr @failed(ptr %frame)
  br label %done
done:
  %result = phi ptr [ %given, %answered ], [ %cancelled, %interrupt ], [ %error, %other ]
  call void @PyGILState_Release(i32 %gil)
  ret ptr %result
}}

define internal ptr @failed(ptr %frame) {{
  %api_field = getelementptr i8, ptr %frame, i64 {api}
  %api = load ptr, ptr %api_field
  %create_field = getelementptr i8, ptr %api, i64 {create}
  %create = load ptr, ptr %create_field
  %error = call ptr %create(ptr inttoptr (i64 {error} to ptr))
  ret ptr %error
}}
"""
_FAILED = _error(b"Python was interrupted, could not call fastce, or is ending", _CANCELLED)
_closed, _inside = (
    ctypes.c_int32(0),
    ctypes.c_int32(0),
)  # whether Python ends; how many threads are in it, or wait for it


@atexit.register
def _close() -> None:
    barrier: Any = jax.effects_barrier  # (without types)
    barrier()  # what is still to be seen of what was computed
    _closed.value = 1
    while _inside.value:
        time.sleep(0.001)


def _after_fork() -> None:
    _inside.value = 0  # the threads of XLA's are not here


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


# Registration ---------------------------------------------------------------------------------------------------------


def register(name: str, function: Function) -> None:
    """Let `ffi.ffi_call(name, ...)(..., options="...")` call a Python function, on the CPU.

    The function is called with the arrays to read, the arrays to fill, and the string; from any thread. What it raises
    becomes an error of XLA.

    Raises
    ------
    ImportError
        The interface of this jaxlib has another major version, so that memory would be misread.
    """
    version = _version()
    if version[0] != 0 or version[1] < 1:
        raise ImportError(
            f"jax {jax.__version__} has version {version[0]}.{version[1]} of XLA's foreign function interface; "
            "fastce.jax knows 0.1 and later, before 1.0"
        )

    def answer(address: int) -> int:
        return _answer(function, version, address)

    _registered[name] = answer, _compile(answer)
    address = _registered[name][1].get_function_address("call")
    ffi.register_ffi_target(name, ffi.pycapsule(c_void_p(address)), platform="cpu")


_registered: dict[str, Any] = {}  # as long as the process: XLA keeps the addresses


def _version() -> tuple[int, int]:
    """Give the interface's version, which XLA wants to hear from whoever registers a function."""
    header = Path(ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
    major, minor = (re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR"))
    if major is None or minor is None:
        raise ImportError(f"the header of jax {jax.__version__} does not say which version its interface has")
    return int(major[1]), int(minor[1])


def _compile(function: Callable[[int], int]) -> Any:
    """Compile `_NATIVE` for a Python function, which must be kept alive."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    source = _NATIVE.format(
        function=id(function),
        interrupt=id(KeyboardInterrupt),
        error=ctypes.addressof(_FAILED),
        inside=ctypes.addressof(_inside),
        closed=ctypes.addressof(_closed),
        api=_CallFrame.api.offset,
        create=_Api.XLA_FFI_Error_Create.offset,
    )
    module = llvm.parse_assembly(source)
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine())
    for declared in module.functions:
        if declared.is_declaration:
            address = ctypes.cast(getattr(ctypes.pythonapi, declared.name), c_void_p).value
            engine.add_global_mapping(declared, address)
    engine.finalize_object()
    return engine
