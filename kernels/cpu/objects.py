"""Python's objects in machine code: whether one is an array, and where it lies.

Numba takes an array apart before a kernel begins, and Python asks what it is before that: of a call of 32 x 10, two
thirds of the time. Here a kernel gets the object itself, and reads what NumPy's C API says is there, as every compiled
extension does: the fields of ``PyArrayObject`` (numpy.org/doc/stable/reference/c-api/types-and-structures.html).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from .llvm import I8, I32, I64

# Bytes from the start of an object, all of which begin alike: to an array's fields; a float's number; a tuple's items.
_HEAD = object.__basicsize__
TYPE, DATA, N_DIMS, SHAPE, DTYPE, FLAGS = _HEAD - 8, _HEAD, _HEAD + 8, _HEAD + 16, _HEAD + 40, _HEAD + 48
_NUMBER, _ITEMS = _HEAD, tuple.__basicsize__

# The flags of an array that kernels take as it lies, C-contiguous and aligned; and of one that may be written.
CARRAY_RO, CARRAY = 0x0001 | 0x0100, 0x0001 | 0x0100 | 0x0400


class PyObject(types.Opaque):
    """Any object: its address."""


py_object = PyObject("py_object")
register_model(PyObject)(models.OpaqueModel)


@unbox(PyObject)
def _as_it_is(ty: types.Type, value: ir.Value, c: Any) -> Any:
    return NativeValue(value)


@intrinsic
def id_of(typingctx: Any, value: PyObject) -> Any:
    """What ``id(value)`` gives."""
    return types.int64(value), lambda context, builder, sig, args: builder.ptrtoint(args[0], I64)


def _at(builder: ir.IRBuilder, base: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.load(builder.bitcast(builder.gep(base, [offset]), kind.as_pointer()), typ=kind)


@intrinsic
def word(typingctx: Any, value: PyObject, offset: types.Integer) -> Any:
    """The 64 bits that lie so many bytes from the start of an object."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _at(builder, args[0], args[1], I64)

    return types.int64(value, types.int64), codegen


@intrinsic
def half_word(typingctx: Any, value: PyObject, offset: types.Integer) -> Any:
    """The 32 bits that lie there."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.sext(_at(builder, args[0], args[1], I32), I64)

    return types.int64(value, types.int64), codegen


@intrinsic
def number(typingctx: Any, value: PyObject) -> Any:
    """What a ``float`` is."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _at(builder, args[0], I64(_NUMBER), ir.DoubleType())

    return types.float64(value), codegen


@intrinsic
def integer(typingctx: Any, value: PyObject) -> Any:
    """Whether int64 can hold an ``int``, and what it is. Needs the GIL."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(I64, [args[0].type, I32.as_pointer()])
        convert = cgutils.get_or_insert_function(builder.module, kind, "PyLong_AsLongLongAndOverflow")
        overflow = cgutils.alloca_once(builder, I32)
        found = builder.call(convert, [args[0], overflow])
        fits = builder.icmp_signed("==", builder.load(overflow, typ=I32), I32(0))
        return context.make_tuple(builder, sig.return_type, [fits, found])

    return types.Tuple((types.boolean, types.int64))(value), codegen


@intrinsic
def item(typingctx: Any, value: PyObject, index: types.Integer) -> Any:
    """An item that a tuple has: alive as long as the tuple is."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        at = builder.add(I64(_ITEMS), builder.mul(args[1], I64(8)))
        return builder.inttoptr(_at(builder, args[0], at, I64), args[0].type)

    return py_object(value, types.int64), codegen


@intrinsic
def next_item(typingctx: Any, value: PyObject, position: types.Integer) -> Any:
    """Of a ``dict``, from a position on, 0 at first: the next one, -1 at the end; the name there, and its value.

    They are alive as long as the dict is not changed. Needs the GIL.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        thing = args[0].type
        kind = ir.FunctionType(I32, [thing, I64.as_pointer(), thing.as_pointer(), thing.as_pointer()])
        find = cgutils.get_or_insert_function(builder.module, kind, "PyDict_Next")
        places = [cgutils.alloca_once(builder, t) for t in (I64, thing, thing)]
        for place, before in zip(places, (args[1], args[0], args[0]), strict=True):
            builder.store(before, place)
        found = builder.icmp_signed("!=", builder.call(find, [args[0], *places]), I32(0))
        at, name, item = (builder.load(p, typ=t) for p, t in zip(places, (I64, thing, thing), strict=True))
        return context.make_tuple(builder, sig.return_type, [builder.select(found, at, I64(-1)), name, item])

    return types.Tuple((types.int64, py_object, py_object))(value, types.int64), codegen


@intrinsic
def object_at(typingctx: Any, address: types.Integer) -> Any:
    """The object whose ``id`` that is."""
    return py_object(types.int64), lambda context, builder, sig, args: builder.inttoptr(
        args[0], context.get_value_type(py_object)
    )


@intrinsic
def length(typingctx: Any, value: PyObject, axis: types.Integer) -> Any:
    """Length of an array along an axis that it has."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        shape = builder.inttoptr(_at(builder, args[0], I64(SHAPE), I64), I64.as_pointer())
        return builder.load(builder.gep(shape, [args[1]]), typ=I64)

    return types.int64(value, types.int64), codegen


@intrinsic
def release_gil(typingctx: Any) -> Any:
    """Let other threads run Python, until ``take_gil`` gets what this gives. Nothing may raise in between."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.ptrtoint(context.get_python_api(builder).save_thread(), I64)

    return types.int64(), codegen


@intrinsic
def take_gil(typingctx: Any, state: types.Integer) -> Any:
    """The end of what ``release_gil`` began."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        context.get_python_api(builder).restore_thread(builder.inttoptr(args[0], I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def are_as_expected() -> bool:
    """Whether arrays, floats and tuples lie in memory as this file says."""
    array, value = np.zeros((2, 3), np.float32), 0.1
    items = array, value

    def there(kind: Any, thing: object, offset: int) -> Any:
        return kind.from_address(id(thing) + offset).value

    word, half = ctypes.c_int64, ctypes.c_int32
    return (
        ctypes.sizeof(ctypes.c_void_p) == 8
        and there(word, array, TYPE) == id(np.ndarray)
        and there(word, array, DATA) == array.__array_interface__["data"][0]
        and there(half, array, N_DIMS) == 2
        and there(word, array, DTYPE) == id(array.dtype)
        and there(half, array, FLAGS) & CARRAY == array.flags.num & CARRAY == CARRAY
        and tuple((word * 2).from_address(there(word, array, SHAPE))) == array.shape
        and there(word, value, TYPE) == id(float)
        and there(ctypes.c_double, value, _NUMBER) == value
        and (there(word, items, _ITEMS), there(word, items, _ITEMS + 8)) == (id(array), id(value))
    )
