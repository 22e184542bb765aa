"""Bad input: the right error, a message that names the argument, and every output and in-place array as it was."""

import decimal
import fractions
import inspect
import itertools
import math

import numpy as np
import pytest

import fastce

LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3)
TARGETS = np.array([0, 1, 2, 0])


def read_only(array):
    array.flags.writeable = False
    return array


def unaligned(shape, dtype):
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.zeros(n_bytes + 1, np.uint8)[1:].view(dtype).reshape(shape)


NO_OUTPUTS = {"grad_out": None, "out": None}

# Arguments of cross_entropy_with_grad(LOGITS, TARGETS), the error, and what its message has to name.
CASES = {
    # targets outside the classes
    "target C": ({"targets": [0, 1, 3, 9]}, IndexError, ["targets[2]", "3", "[0, 3)", "-100"]),
    "target -1": ({"targets": [0, -1, 2, 0]}, IndexError, ["targets[1]", "-1"]),
    "ignore_index of another call": ({"targets": [0, -100, 2, 0], "ignore_index": 5}, IndexError, ["-100", "5"]),
    "uint64 beyond int64": ({"targets": np.array([0, 2**64 - 100, 1, 2], np.uint64)}, IndexError, [str(2**64 - 100)]),
    "uint64 that wraps to ignore_index": (
        {"targets": np.array([0, 2**64 - 1, 1, 2], np.uint64), "ignore_index": -1},
        IndexError,
        ["targets[1]", str(2**64 - 1)],
    ),
    "bad target in two dimensions": (
        {"logits": np.zeros((2, 3, 2)), "axis": 1, "targets": [[0, 1], [2, 7]], **NO_OUTPUTS},
        IndexError,
        ["targets[1, 1]", "7"],
    ),
    "bad scalar target": ({"logits": np.zeros(3), "targets": 3, **NO_OUTPUTS}, IndexError, ["targets[()]", "3"]),
    "bool target of one class": ({"logits": np.zeros((4, 1)), "targets": [True] * 4, **NO_OUTPUTS}, IndexError, []),
    # shapes
    "no dimension": ({"logits": np.float32(1)}, ValueError, ["axis -1", "()"]),
    "no class": ({"logits": np.zeros((4, 0))}, ValueError, ["(4, 0)", "at least one"]),
    "no class and no row": ({"logits": np.zeros((0, 0)), "targets": []}, ValueError, ["(0, 0)"]),
    "fewer targets": ({"targets": [0, 1]}, ValueError, ["targets", "(2,)", "(4, 3)", "(4,)"]),
    "targets with a class axis": ({"targets": np.zeros((4, 3), int)}, ValueError, ["(4, 3)", "(4,)"]),
    "targets of a size that would broadcast": ({"targets": [[0], [1], [2], [0]]}, ValueError, ["(4, 1)", "(4,)"]),
    "scalar target for rows": ({"targets": 1}, ValueError, ["()", "(4,)"]),
    "float class targets": ({"targets": np.zeros(4)}, ValueError, ["(4,)", "(4, 3)", "integer"]),
    "probabilities of other classes": ({"targets": np.zeros((4, 2))}, ValueError, ["(4, 2)", "(4, 3)"]),
    "weight too short": ({"weight": [1.0, 2.0]}, ValueError, ["weight", "(2,)", "(3,)"]),
    "scalar weight": ({"weight": 2.0}, ValueError, ["weight", "()", "(3,)"]),
    "weight of rows": ({"weight": np.ones((4, 3))}, ValueError, ["weight", "(4, 3)", "(3,)"]),
    "sample_weight too long": ({"sample_weight": np.ones(5)}, ValueError, ["sample_weight", "(5,)", "(4,)"]),
    "sample_weight of classes": ({"sample_weight": np.ones((4, 3))}, ValueError, ["sample_weight", "(4, 3)"]),
    "grad_output of rows with mean": ({"grad_output": np.ones(4)}, ValueError, ["grad_output", "mean", "(4,)"]),
    "grad_output of the wrong length": (
        {"grad_output": np.ones(3), "reduction": "none", "out": None},
        ValueError,
        ["grad_output", "(3,)", "(4,)"],
    ),
    "axis too large": ({"axis": 2}, ValueError, ["axis 2", "(4, 3)"]),
    "axis too small": ({"axis": -3}, ValueError, ["axis -3", "(4, 3)"]),
    "axis beyond 64 bits": ({"axis": 2**70}, ValueError, ["axis"]),
    "ragged logits": ({"logits": [[1.0, 2.0], [3.0]]}, TypeError, ["logits"]),
    # types
    **{
        f"logits {np.dtype(dtype)}": ({"logits": np.zeros((4, 3), dtype)}, TypeError, ["logits", "float32"])
        for dtype in ("int64", "bool", "complex64", "longdouble", "O", "U3", "S3", "M8[s]", "f4,i4", ">f4")
    },
    "logits None": ({"logits": None}, TypeError, ["logits", "object"]),
    "logits of text": ({"logits": "abc"}, TypeError, ["logits"]),
    "logits of integers": ({"logits": [[1, 2, 3]] * 4}, TypeError, ["logits", "int64"]),
    "masked logits": ({"logits": np.ma.masked_array(LOGITS)}, TypeError, ["logits", "mask"]),
    "masked targets": ({"targets": np.ma.masked_array(TARGETS)}, TypeError, ["targets", "mask"]),
    "targets None": ({"targets": None}, TypeError, ["targets", "object"]),
    "complex targets": ({"targets": np.zeros((4, 3), complex)}, TypeError, ["targets", "complex128"]),
    "targets of text": ({"targets": ["a", "b", "c", "d"]}, TypeError, ["targets"]),
    "targets beyond 64 bits": ({"targets": [0, 1, 2, 2**70]}, TypeError, ["targets", "object"]),
    "big-endian probabilities": ({"targets": np.zeros((4, 3), ">f4")}, TypeError, ["targets", ">f4", "native"]),
    **{
        f"{name} {np.dtype(dtype)}": ({name: np.ones(n, dtype)}, TypeError, [name, str(np.dtype(dtype))])
        for name, n in (("weight", 3), ("sample_weight", 4), ("grad_output", ()))
        for dtype in ("complex128", "O", "U1", "m8[s]")
    },
    "weight of None": ({"weight": [1, None, 2]}, TypeError, ["weight"]),
    "axis bool": ({"axis": True}, TypeError, ["axis", "bool"]),
    "axis float": ({"axis": 1.0}, TypeError, ["axis", "float"]),
    "axis None": ({"axis": None}, TypeError, ["axis", "NoneType"]),
    "axis tuple": ({"axis": (0, 1)}, TypeError, ["axis", "tuple"]),
    "ignore_index float": ({"ignore_index": -100.0}, TypeError, ["ignore_index", "float"]),
    "ignore_index None": ({"ignore_index": None}, TypeError, ["ignore_index", "NoneType"]),
    "ignore_index beyond 64 bits": ({"ignore_index": 2**63}, ValueError, ["ignore_index", "64 bits"]),
    # options
    **{
        f"{name} {value}": ({name: value}, ValueError, [name])
        for name, values in {
            "label_smoothing": (-0.1, 1.1, math.nan, math.inf, 10**400),
            "z_loss": (math.nan, math.inf, -math.inf, fractions.Fraction(10**400)),
            "softcap": (0, -1.0, math.nan, math.inf, 1e-45, 1e39),
            "logit_scale": (math.nan, -math.inf),
            "normalizer": (0, -1, math.nan, math.inf),
            "reduction": ("avg", "MEAN", "", None, 1, True, ["mean"], np.array("mean"), np.zeros(3)),
            "empty": ("inf", None, 0.0, math.nan),
            "backend": ("numpy", "gpu", "", 0, ["cpu"]),
            "check": ("yes", 1, 0.0, np.zeros(3)),
        }.items()
        for value in values
    },
    **{
        f"{name} {type(value).__name__}": ({name: value}, TypeError, [name, type(value).__name__])
        for name in ("label_smoothing", "z_loss", "softcap", "logit_scale", "normalizer")
        for value in ("0.1", 1j, [0.1], np.ones(1), decimal.Decimal("0.1"), object())
    },
    **{f"{name} None": ({name: None}, TypeError, [name]) for name in ("label_smoothing", "z_loss", "logit_scale")},
    "unknown option": ({"lable_smoothing": 0.1}, TypeError, ["lable_smoothing", "label_smoothing"]),
    "unknown aux": ({"aux": ("lse", "top5")}, ValueError, ["aux", "top5", "rank"]),
    "aux a string": ({"aux": "lse"}, TypeError, ["aux", "str"]),
    "aux None": ({"aux": None}, TypeError, ["aux", "NoneType"]),
    "aux an array": ({"aux": np.array(["lse"])}, TypeError, ["aux", "ndarray"]),
    "aux without end": ({"aux": itertools.repeat("lse")}, TypeError, ["aux", "repeat"]),
    "aux of numbers": ({"aux": (1,)}, ValueError, ["aux", "1"]),
    "aux unhashable": ({"aux": (["lse"],)}, ValueError, ["aux"]),
    **{
        f"aux {name} of probabilities": ({"targets": np.full((4, 3), 0.5), "aux": (name,)}, ValueError, [name, "class"])
        for name in ("correct", "rank", "target_prob")
    },
    # outputs
    "grad_out of another shape": ({"grad_out": np.zeros((3, 4), np.float32)}, ValueError, ["grad_out", "(3, 4)"]),
    "grad_out of another type": ({"grad_out": np.zeros((4, 3))}, ValueError, ["grad_out", "float64", "float32"]),
    "grad_out big-endian": ({"grad_out": np.zeros((4, 3), ">f4")}, ValueError, ["grad_out", ">f4"]),
    "grad_out read-only": (
        {"grad_out": read_only(np.zeros((4, 3), np.float32))},
        ValueError,
        ["grad_out", "writeable"],
    ),
    "grad_out unaligned": ({"grad_out": unaligned((4, 3), np.float32)}, ValueError, ["grad_out", "aligned"]),
    "grad_out a list": ({"grad_out": [[0.0] * 3] * 4}, TypeError, ["grad_out", "list"]),
    "grad_out masked": ({"grad_out": np.ma.zeros((4, 3), np.float32)}, TypeError, ["grad_out", "mask"]),
    "grad_out a number": ({"grad_out": 0}, TypeError, ["grad_out", "int"]),
    "grad_out with elements in common": (
        {"grad_out": np.lib.stride_tricks.as_strided(np.zeros(6, np.float32), (4, 3), (4, 4))},
        ValueError,
        ["grad_out", "share", "(4, 4)"],
    ),
    "grad_out broadcast": (
        {"grad_out": np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), (4, 3), (0, 4))},
        ValueError,
        ["grad_out", "share"],
    ),
    "out of rows for a mean": ({"out": np.zeros(4, np.float32)}, ValueError, ["out", "(4,)", "()"]),
    "out of classes": (
        {"out": np.zeros((4, 3), np.float32), "reduction": "none"},
        ValueError,
        ["out", "(4, 3)", "(4,)"],
    ),
    "out of another type": ({"out": np.zeros(())}, ValueError, ["out", "float64", "float32"]),
    "out read-only": ({"out": read_only(np.zeros((), np.float32))}, ValueError, ["out", "writeable"]),
    "out a scalar": ({"out": np.float32(0)}, TypeError, ["out", "float32"]),
}


@pytest.mark.parametrize(("arguments", "error", "words"), CASES.values(), ids=CASES)
def test_error_leaves_everything_as_it_was(backend, arguments, error, words):
    for in_place in (False, True):
        logits, targets = LOGITS.copy(), TARGETS.copy()
        grad_out = logits if in_place else np.full((4, 3), 7, np.float32)
        out = np.full((), 7, np.float32)
        options = {
            "logits": logits,
            "targets": targets,
            "grad_out": grad_out,
            "out": out,
            "backend": backend,
            **arguments,
        }
        written = [value for value in options.values() if isinstance(value, np.ndarray) and value.dtype != object]
        before = [(value.tobytes(), value.copy()) for value in written]
        with pytest.raises(error) as caught:
            fastce.cross_entropy_with_grad(**options)
        assert type(caught.value) is error
        for word in words:
            assert word in str(caught.value)
        assert [value.tobytes() for value in written] == [contents for contents, _ in before]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"targets": np.array([0, 1, 3, 0])}, IndexError, r"targets\[2\] is 3"),
        ({"targets": np.array([0, 1, 2, -2])}, IndexError, r"targets\[3\] is -2"),
        ({"targets": np.array([0, 1, 2])}, ValueError, "shape"),
        ({"grad_out": np.full((3, 4), 7, np.float32)}, ValueError, "grad_out"),
        ({"grad_out": np.full((4, 3), 7.0)}, ValueError, "grad_out"),
        ({"aux": np.array([])}, TypeError, "aux"),
    ],
)
def test_errors_of_calls_without_options(arguments, error, message):
    """Such calls have a way of their own."""
    for in_place in (False, True):
        logits = LOGITS.copy()
        grad_out = logits if in_place else np.full((4, 3), 7, np.float32)
        arguments = {"logits": logits, "targets": TARGETS, "grad_out": grad_out, **arguments}
        with pytest.raises(error, match=message):
            fastce.cross_entropy_with_grad(**arguments)
        np.testing.assert_array_equal(logits, LOGITS)
        assert in_place or (arguments["grad_out"] == 7).all()


def test_overlaps_of_calls_without_options():
    memory = np.zeros(24, np.float64)
    logits, targets = memory[:12].reshape(4, 3), memory[:4].view(np.int64)
    for grad_out in (logits, memory[1:13].reshape(4, 3), memory[3:15].reshape(4, 3)):
        with pytest.raises(ValueError, match="grad_out shares memory with"):
            fastce.cross_entropy_with_grad(logits, targets, grad_out=grad_out)
    assert not memory.any()


UNUSUAL = {
    "label_smoothing": [1.5, -0.1, np.nan, "much", 1, 0, np.float32(0.1), None, True],
    "z_loss": [np.inf, np.nan, 1, 1e40, None, 1j],
    "softcap": [0.0, -1.0, np.nan, 1e-50, 1e39, 5, "none"],
    "logit_scale": [np.nan, np.inf, 2, 0.0, -0.5, 1e39, None],
    "ignore_index": [1.5, True, 2**63, 2**70, -(2**63), -(2**63) - 1, np.int8(1), "1", 1],
    "weight": [[1, 2, 3], np.ones(2, np.float32), np.ones(3), np.ones(6, np.float32)[::2], 2, "w", np.ones((1, 3))],
    "sample_weight": [[1, 2, 3, 4], np.ones(3, np.float32), np.ones(4, np.int64), np.array(["a"] * 4), 1.0],
    "sample_wait": [1.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in UNUSUAL.items() for value in values])
def test_unusual_options_the_short_way_are_what_they_are_the_long_way(name, value):
    def outcome(**more):
        logits, grad_out = LOGITS.copy(), np.full((4, 3), 7, np.float32)
        try:
            result = fastce.cross_entropy_with_grad(logits, TARGETS, grad_out=grad_out, **{name: value}, **more)
        except (TypeError, ValueError) as error:
            assert (grad_out == 7).all()
            return type(error), str(error)
        return result.loss.dtype, result.loss.tobytes(), grad_out.tobytes()

    assert outcome() == outcome(reduction="mean")  # (which leads past it)


def test_wrong_number_of_arguments():
    with pytest.raises(TypeError, match="targets"):
        fastce.cross_entropy(LOGITS)
    with pytest.raises(TypeError, match="positional"):
        fastce.cross_entropy(LOGITS, TARGETS, None)
    with pytest.raises(TypeError, match="grad_out"):
        fastce.cross_entropy(LOGITS, TARGETS, grad_out=LOGITS)
    with pytest.raises(TypeError, match="out"):
        fastce.cross_entropy_backward(LOGITS, TARGETS, np.zeros(4), out=LOGITS)


# Overlaps -------------------------------------------------------------------------------------------------------------


def overlapping():
    """Give arguments of which two share memory, by the words of the message."""
    buffer = np.zeros(40, np.float32)
    logits = buffer[:12].reshape(4, 3)
    square = np.zeros((3, 3), np.float32)
    rows = {"reduction": "none"}
    twice = np.zeros((4, 3), np.float32)
    q = np.zeros((4, 3), np.float32)
    big = np.zeros(100, np.float32)
    return {
        "grad_out shares memory with logits": [
            {"logits": logits, "grad_out": buffer[1:13].reshape(4, 3)},
            {"logits": logits, "grad_out": logits[::-1]},
            {"logits": logits, "grad_out": logits[:, ::-1]},
            {"logits": square, "grad_out": square.T, "targets": [0, 1, 2]},
            {"logits": buffer[:24].reshape(4, 6)[:, ::2], "grad_out": buffer[:12].reshape(4, 3)},
            {"logits": np.lib.stride_tricks.as_strided(big, (4, 3), (12, 4)), "grad_out": big[11:23].reshape(4, 3)},
            {"logits": memoryview(logits), "grad_out": logits[::-1]},
        ],
        "grad_out shares memory with targets": [
            {"logits": logits, "targets": q, "grad_out": q},
            {"logits": logits, "targets": buffer[12:28].view(np.int64)[:4], "grad_out": buffer[16:28].reshape(4, 3)},
        ],
        "grad_out shares memory with weight": [{"weight": twice[0], "grad_out": twice}],
        "grad_out shares memory with sample_weight": [{"sample_weight": twice[:, 1], "grad_out": twice}],
        "grad_out shares memory with grad_output": [{"grad_output": twice[:, 1], "grad_out": twice, **rows}],
        "grad_out shares memory with out": [{"out": twice[:, 1], "grad_out": twice, **rows}],
        "out shares memory with logits": [
            {"logits": logits, "out": logits[:, 0], **rows},
            {"logits": logits, "out": buffer[3:4].reshape(())},
        ],
        "out shares memory with weight": [{"weight": big[:3], "out": big[2:6], **rows}],
        "out shares memory with sample_weight": [{"sample_weight": big[:4], "out": big[:4], **rows}],
    }


OVERLAPS = [(message, i) for message, cases in overlapping().items() for i in range(len(cases))]


@pytest.mark.parametrize(("message", "i"), OVERLAPS)
def test_overlap(backend, message, i):
    for short in ({}, {"backend": backend}):  # (a backend leads past the short way of plain calls)
        arguments = {"logits": LOGITS.copy(), "targets": TARGETS, **overlapping()[message][i]}
        with pytest.raises(ValueError, match=message):
            fastce.cross_entropy_with_grad(**arguments, **short)
        assert not any(np.any(a) for name, a in arguments.items() if name in ("grad_out", "out"))


def test_overlap_of_lse(backend):
    grad_out = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="grad_out shares memory with lse"):
        fastce.cross_entropy_backward(LOGITS, TARGETS, grad_out[:, 0], grad_out=grad_out, backend=backend)


def test_overlap_that_takes_for_ever_to_decide_counts_as_one(backend):
    n = 18  # whether a sum of some of these strides is the place of `out` is a knapsack problem
    strides = np.random.default_rng(0).integers(1, 2**20, n)
    sums = np.zeros(1, int)
    for stride in strides:
        sums = np.concatenate([sums, sums + stride])
    middle = strides.sum() // 2 + np.arange(1000)
    free = middle[~np.isin(middle, sums)][0]
    memory = np.zeros(strides.sum() + 1, np.float32)
    logits = np.lib.stride_tricks.as_strided(memory, (2,) * n, 4 * strides)
    out = memory[free : free + 1].reshape(())
    with pytest.raises(RuntimeError):
        np.shares_memory(logits, out, max_work=10_000)
    with pytest.raises(ValueError, match="out shares memory with logits"):
        fastce.cross_entropy(logits, np.zeros((2,) * (n - 1), int), out=out, backend=backend)


# The other functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [fastce.logsumexp, fastce.softmax, fastce.log_softmax])
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"logits": np.zeros((4, 3), int)}, TypeError, ["logits", "int64"]),
        ({"logits": None}, TypeError, ["logits"]),
        ({"logits": np.zeros((4, 0))}, ValueError, ["(4, 0)"]),
        ({"logits": np.float64(1)}, ValueError, ["axis"]),
        ({"axis": 2}, ValueError, ["axis 2"]),
        ({"axis": None}, TypeError, ["axis"]),
        ({"backend": "gpu"}, ValueError, ["backend", "gpu"]),
        ({"out": np.zeros((4, 4), np.float32)}, ValueError, ["out", "(4, 4)"]),
        ({"out": np.zeros(4)}, ValueError, ["out"]),
        ({"out": [0.0]}, TypeError, ["out", "list"]),
    ],
)
def test_errors_of_the_functions_of_rows(function, arguments, error, words):
    with pytest.raises(error) as caught:
        function(**{"logits": LOGITS, **arguments})
    assert all(word in str(caught.value) for word in words)


def test_overlaps_of_the_functions_of_rows(backend):
    logits = LOGITS.copy()
    for function in (fastce.softmax, fastce.log_softmax):
        with pytest.raises(ValueError, match="out shares memory with logits"):
            function(logits, out=logits[::-1], backend=backend)
    with pytest.raises(ValueError, match="out shares memory with logits"):
        fastce.logsumexp(logits, out=logits[:, 0], backend=backend)
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"log_probs": np.zeros((4, 3), int)}, TypeError, ["log_probs", "int64"]),
        ({"log_probs": np.zeros((4, 0))}, ValueError, ["log_probs", "(4, 0)"]),
        ({"targets": np.zeros((4, 3), np.float32)}, TypeError, ["targets", "integer"]),
        ({"targets": [0, 1, 2, 3]}, IndexError, ["targets[3]", "[0, 3)"]),
        ({"targets": [0, 1]}, ValueError, ["(2,)", "(4,)"]),
        ({"weight": [1.0]}, ValueError, ["weight", "(1,)"]),
        ({"sample_weight": [1j] * 4}, TypeError, ["sample_weight"]),
        ({"reduction": "all"}, ValueError, ["reduction", "all"]),
        ({"normalizer": 0}, ValueError, ["normalizer"]),
        ({"empty": "one"}, ValueError, ["empty"]),
        ({"axis": 5}, ValueError, ["axis 5"]),
        ({"label_smoothing": 0.1}, TypeError, ["label_smoothing"]),
        ({"out": np.zeros(4, np.float32)}, ValueError, ["out", "(4,)"]),
    ],
)
def test_errors_of_nll_loss(arguments, error, words):
    out = np.full((), 7, np.float32)
    with pytest.raises(error) as caught:
        fastce.nll_loss(**{"log_probs": LOGITS, "targets": TARGETS, "out": out, **arguments})
    assert all(word in str(caught.value) for word in words)
    assert out == 7


def test_errors_of_lse():
    for lse, error in (
        (np.zeros(3), ValueError),
        (np.zeros((4, 1)), ValueError),
        ("abcd", TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match="lse"):
            fastce.cross_entropy_backward(LOGITS, TARGETS, lse)


# Anything whatsoever --------------------------------------------------------------------------------------------------


class Hostile:
    """Raises whatever it is asked."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")

    def __index__(self):
        raise TypeError("no index")

    def __bool__(self):
        raise RuntimeError("no bool")

    def __eq__(self, other):
        raise RuntimeError("no equality")

    __hash__ = None


ANYTHING = [
    *(
        None,
        True,
        0,
        1,
        -1,
        2,
        10**30,
        1.0,
        -0.0,
        0.5,
        1e300,
        1e-300,
        math.nan,
        math.inf,
        1j,
        "",
        "mean",
        "none",
        "nan",
    ),
    *(b"cpu", (), [], {}, set(), [[]], [1], [None], ["lse"], ("lse",), ("lse", None), [1.0, 2.0, 3.0], [0, 1, 2, 0]),
    *(
        [[1.0], [1, 2]],
        object(),
        object,
        len,
        Ellipsis,
        slice(3),
        range(4),
        iter([1]),
        memoryview(b"abc"),
        bytearray(4),
    ),
    *(decimal.Decimal(1), fractions.Fraction(1, 2), np.int8(1), np.uint64(2**63), np.float16(0.5), np.str_("sum")),
    *(np.bool_(True), np.datetime64("NaT"), np.timedelta64(1), np.dtype("f4"), np.float32, np.ma.masked, Hostile()),
    *(np.array(1), np.array(1.0), np.array("mean"), np.array(None), np.array([]), np.ones(4), np.ones((1,) * 32)),
    *(np.zeros(4, dtype) for dtype in ("U3", "O", "V4", "M8[s]", np.longdouble, bool, np.uint8, "f4,f4", ">i8")),
    *(np.zeros((4, 3), dtype) for dtype in ("f4", "f8", "f2", "c8", "i8", "f4,f4", ">f4")),
    *(np.zeros(shape, np.float32) for shape in ((3, 4), (4, 0), (0, 3), (4, 3, 1))),
    *(np.ma.masked_all((4, 3), np.float32), np.broadcast_to(np.float32(1), (4, 3)), np.rec.array([(1, 2.0)])),
]
PARAMETERS = (
    *(
        "logits",
        "targets",
        "weight",
        "sample_weight",
        "ignore_index",
        "label_smoothing",
        "z_loss",
        "softcap",
        "logit_scale",
    ),
    *("reduction", "normalizer", "empty", "axis", "backend", "check", "out", "grad_output", "grad_out", "aux"),
)


@pytest.mark.parametrize("name", PARAMETERS)
def test_any_argument_whatsoever_is_taken_or_refused(backend, name):
    refused = 0
    for value in ANYTHING:
        logits, out = LOGITS.copy(), np.full((), 7, np.float32)
        arguments = {
            "logits": logits,
            "targets": TARGETS,
            "out": out,
            "grad_out": logits,
            "backend": backend,
            name: value,
        }
        try:
            result = fastce.cross_entropy_with_grad(**arguments)
        except (TypeError, ValueError, IndexError):
            assert out == 7
            np.testing.assert_array_equal(logits, LOGITS)
            refused += 1
        else:
            assert isinstance(result, fastce.CrossEntropyResult)
    assert refused > len(ANYTHING) / 2


def arguments_of(function, backend):
    """Good arguments of any other public function, all that are arrays: none of them may change but by succeeding."""
    logits = LOGITS.copy()
    arguments = {
        fastce.cross_entropy: {"logits": logits, "targets": TARGETS, "out": np.full((), 7, np.float32)},
        fastce.cross_entropy_backward: {
            "logits": logits,
            "targets": TARGETS,
            "lse": np.ones(4, np.float32),
            "grad_out": logits,
        },
        fastce.logsumexp: {"logits": logits, "out": np.full(4, 7, np.float32)},
        fastce.softmax: {"logits": logits, "out": logits},
        fastce.log_softmax: {"logits": logits, "out": logits},
        fastce.nll_loss: {"log_probs": logits, "targets": TARGETS, "out": np.full((), 7, np.float32)},
    }[function]
    return arguments if function is fastce.nll_loss else {**arguments, "backend": backend}


OTHERS = ("cross_entropy", "cross_entropy_backward", "logsumexp", "softmax", "log_softmax", "nll_loss")


@pytest.mark.parametrize("name", OTHERS)
def test_any_argument_of_the_other_functions_is_taken_or_refused(backend, name):
    function = getattr(fastce, name)
    for parameter in inspect.signature(function).parameters:
        refused = 0
        for value in ANYTHING:
            arguments = {**arguments_of(function, backend), parameter: value}
            arrays = {k: (a, a.copy()) for k, a in arguments.items() if k != parameter and isinstance(a, np.ndarray)}
            try:
                result = function(**arguments)
            except (TypeError, ValueError, IndexError):
                for array, before in arrays.values():
                    np.testing.assert_array_equal(array, before)
                refused += 1
            else:
                assert isinstance(result, (np.ndarray, np.generic))
        assert refused > len(ANYTHING) / 2, parameter
