"""XLA's call frames: laid out as the installed header says, read without a copy, and answered whatever happens."""

import ctypes
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

jax = pytest.importorskip("jax")

from fastce import xla  # noqa: E402

HEADER = Path(xla.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text(encoding="utf-8")
STRUCTS = [
    xla._ErrorArgs,
    xla._Version,
    xla._Api,
    xla._Extension,
    xla._Metadata,
    xla._MetadataExtension,
    xla._Buffer,
    xla._Text,
    xla._Args,
    xla._Rets,
    xla._Attrs,
    xla._CallFrame,
]
SIZES = {"size_t": 8, "int64_t": 8, "int": 4, "int32_t": 4, "uint32_t": 4}  # of the header's types; else enum or struct


def fields_in_header(name):
    """Give types and names of the fields of a struct."""
    body = re.search(rf"struct {name} {{(.*?)\n}}", HEADER, re.DOTALL)[1]
    body = re.sub(r"//[^\n]*", "", body)
    body = re.sub(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)", r"\1* \1", body)
    return [
        re.fullmatch(r"(?:const )?(?:struct )?(\w+ ?\**) ?(\w+)", f.strip()).groups()
        for f in body.split(";")
        if f.strip()
    ]


# --- layout


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_layout_is_that_of_the_header(struct):
    declared = fields_in_header(struct.__name__)
    for (kind, name), (our_name, our_type) in zip(declared, struct._fields_, strict=False):
        assert name == our_name
        kind = kind.strip()
        if kind.endswith("*"):
            assert ctypes.sizeof(our_type) == ctypes.sizeof(ctypes.c_void_p)
        elif kind in SIZES:
            assert ctypes.sizeof(our_type) == SIZES[kind]
        elif f"}} {kind};" in HEADER and re.search(rf"typedef enum {{[^}}]*}} {kind};", HEADER):
            assert our_type is ctypes.c_int
        else:
            assert kind in (our_type.__name__, "XLA_FFI_Handler_Traits")
    assert len(declared) >= len(struct._fields_)


def test_numbers_are_those_of_the_header():
    types = dict(re.findall(r"XLA_FFI_DataType_(\w+) = (\d+)", HEADER))
    names = {"bool": "PRED", "bfloat16": "BF16", **{f"float{n}": f"F{n}" for n in (16, 32, 64)}}
    names |= {f"int{n}": f"S{n}" for n in (8, 16, 32, 64)} | {f"uint{n}": f"U{n}" for n in (8, 16, 32, 64)}
    assert {int(types[names[dtype.name]]): dtype for dtype in xla._DTYPES.values()} == xla._DTYPES
    codes = dict(re.findall(r"XLA_FFI_Error_Code_(\w+) = (\d+)", HEADER))
    for name in ("CANCELLED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "INTERNAL"):
        assert int(codes[name]) == getattr(xla, f"_{name}")
    assert "XLA_FFI_Extension_Metadata = 1" in HEADER
    assert "XLA_FFI_AttrType_STRING" in HEADER


@pytest.mark.parametrize(
    ("text", "message"), [("MAJOR 1", "version 1.3 of XLA's"), ("MINOR 0", "version 0.0 of"), ("", "does not say")]
)
def test_another_version_is_an_error_before_anything_is_registered(monkeypatch, tmp_path, text, message):
    folder = tmp_path / "xla" / "ffi" / "api"
    folder.mkdir(parents=True)
    numbers = {"MAJOR": "0", "MINOR": "3", **dict([text.split()] if text else [])}
    lines = [f"#define XLA_FFI_API_{part} {number}" for part, number in numbers.items() if text]
    (folder / "c_api.h").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(xla.ffi, "include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(xla.ffi, "register_ffi_target", lambda *a, **o: pytest.fail("registered"))
    with pytest.raises(ImportError, match=message):
        xla.register("never", print)


# --- frames made by hand


class Frame:
    """A call frame as XLA makes it, of NumPy arrays; keeps what the frame points to."""

    def __init__(self, reads, writes, text="text"):
        self.errors = []
        encoded = text.encode()
        self.keep = [encoded]
        create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(xla._ErrorArgs))(self.create_error)
        api = xla._Api(XLA_FFI_Error_Create=create)
        span = xla._Text(ctypes.cast(encoded, ctypes.c_void_p), len(encoded))
        args, rets = (self.buffers(arrays) for arrays in (reads, writes))
        self.frame = xla._CallFrame(
            api=ctypes.pointer(api),
            stage=3,
            args=xla._Args(size=len(reads), args=args),
            rets=xla._Rets(size=len(writes), rets=rets),
            attrs=xla._Attrs(size=1, attrs=(ctypes.POINTER(xla._Text) * 1)(ctypes.pointer(span))),
        )
        self.keep += [create, api, span, args, rets]

    def buffers(self, arrays):
        made = []
        for array in arrays:
            dtype = next(number for number, dtype in xla._DTYPES.items() if dtype == array.dtype)
            dims = (ctypes.c_int64 * array.ndim)(*array.shape)
            data = array.ctypes.data if array.size else None
            made.append(xla._Buffer(dtype=dtype, data=data, rank=array.ndim, dims=dims))
        self.keep += [arrays, made]
        return (ctypes.POINTER(xla._Buffer) * len(made))(*map(ctypes.pointer, made))

    def create_error(self, args):
        assert args.contents.struct_size == 28
        self.errors.append((args.contents.errc, args.contents.message.decode()))
        return 0x1234

    def run(self, function):
        """Give what the native function returns, as XLA calls it."""
        answer = lambda address: xla._answer(function, (0, 3), address)  # noqa: E731
        engine = xla._compile(answer)
        native = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("call"))
        return native(ctypes.addressof(self.frame))


def unaligned(values):
    memory = np.empty(values.nbytes + 1, np.uint8)
    array = memory[1:].view(values.dtype).reshape(values.shape)
    array[...] = values
    assert not array.flags.aligned
    return array


def test_arrays_of_every_type_are_the_memory_itself():
    reads = [np.arange(6).reshape(2, 3).astype(dtype) for dtype in xla._DTYPES.values()]
    reads += [np.empty((0, 7), np.float32), np.array(3.5), unaligned(np.float32([1, 2, 3]))]
    written = np.zeros((2, 3), ml_dtypes.bfloat16)

    def function(given, fills, text):
        assert text == "some text, ä"
        for array, want in zip(given, reads, strict=True):
            assert (array.dtype, array.shape) == (want.dtype, want.shape)
            assert array.size == 0 or array.ctypes.data == want.ctypes.data
            assert array.tobytes() == want.tobytes()
        fills[0][...] = 7

    frame = Frame(reads, [written], "some text, ä")
    assert frame.run(function) is None
    assert not frame.errors
    assert (written == 7).all()


def test_unaligned_buffers_give_the_same_numbers(rng):
    import fastce
    import fastce.jax

    x, y = rng.normal(size=(5, 40)).astype(np.float32), rng.integers(0, 40, 5).astype(np.int32)
    want = fastce.cross_entropy_with_grad(x, y)
    loss, grad = np.empty((), np.float32), np.empty_like(x)
    frame = Frame(
        [unaligned(x), unaligned(y)], [loss, grad], '{"names": ["logits", "targets"], "ndim": 2, "options": {}}'
    )
    assert frame.run(fastce.jax._compute) is None
    assert loss == want.loss
    assert grad.tobytes() == want.grad.tobytes()


@pytest.mark.parametrize(
    ("error", "code"),
    [(IndexError, 11), (ValueError, 3), (TypeError, 3), (MemoryError, 8), (ZeroDivisionError, 13), (SystemExit, 13)],
)
def test_exceptions_become_errors(error, code):
    def function(*_):
        raise error("why")

    frame = Frame([], [])
    assert frame.run(function) == 0x1234
    assert frame.errors == [(code, f"{error.__name__}: why")]


# --- what Python raises where the callback cannot catch it


def run_bare(function):
    """Call a function of an address through the native one."""
    frame = Frame([], [])
    engine = xla._compile(function)
    native = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("call"))
    return native(ctypes.addressof(frame.frame)), frame.errors


def test_ctrl_c_is_an_error_for_xla_and_then_raised_again():
    def interrupted(address):
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        seen.append(run_bare(interrupted))
        for _ in range(1000):
            pass
    assert seen in ([], [(0x1234, [(1, "Python was interrupted, could not call fastce, or is ending")])])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_exceptions_are_errors_too():
    def exhausted(address):
        raise RecursionError

    assert run_bare(exhausted) == (0x1234, [(1, "Python was interrupted, could not call fastce, or is ending")])
    assert run_bare(lambda: 0)[0] == 0x1234  # cannot be called with an address
    assert run_bare(lambda address: 0) == (None, [])


def test_a_call_once_python_ends_does_not_enter_it(monkeypatch):
    monkeypatch.setattr(xla._closed, "value", 1)
    assert run_bare(lambda address: pytest.fail("entered"))[0] == 0x1234
    assert xla._inside.value == 0
