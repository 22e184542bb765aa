"""What the kernels are run on: kernel, type, options, number of classes, layout, schedule, errors, device."""

import itertools
from typing import NamedTuple

import numpy as np
from conftest import FLOAT_TYPES

from fastce.kernels.gpu import launch
from fastce.kernels.gpu.call import LOG_SOFTMAX, SOFTMAX
from fastce.kernels.gpu.memory import SECTOR_BYTES, numbers

from . import standin
from .ptx import SCHEDULES

KERNELS = ("warp", "block", "online", "split")
# One class; fewer than lanes of a warp; one more; several chunks for each lane; one more than chunks of any type;
# rounds of threads and a rest; several pieces and parts.
CLASSES = (1, 7, 33, 200, 513, 1001, 4100)
MOST_OF_A_WARP = 1001  # beyond, no device has the memory

PLAIN = {
    "plain": {},
    "weights": {"weight": True, "sample_weight": True},
    "z-loss, upstream": {"z_loss": 0.125, "upstream": True, "ce_scale": 0.5, "zl_scale": 2.0, "zl_ratio": 0.25},
    "scales of the device": {"scales": True, "z_loss": 0.125, "ce_scale": 0.5, "zl_scale": 2.0, "zl_ratio": 0.25},
    "scale": {"logit_scale": 64.0, "aux": ("lse", "target_prob")},
    "loss alone": {"grad": False},
    "lse given": {"lse_in": 0.0, "loss": False},
    "lse of more classes": {"lse_in": 1.5, "loss": False, "z_loss": 0.125},
    "softmax": {"kind": SOFTMAX},
    "logsumexp": {"targets": None, "loss": False, "grad": False, "aux": ("lse",)},
}
EVERY = {
    "weight": True, "sample_weight": True, "upstream": True, "label_smoothing": 0.25, "z_loss": 0.125, "softcap": 8.0,
    "logit_scale": 1.5,
}  # fmt: skip
ALL_AUX = ("lse", "argmax", "correct", "rank", "target_prob", "entropy")
GENERAL = {
    "smoothing": {"label_smoothing": 0.25},
    "smoothing, weights": {
        "label_smoothing": 0.25,
        "weight": True,
        "sample_weight": True,
        "scales": True,
        "z_loss": 0.125,
        "ce_scale": 0.5,
        "zl_scale": 2.0,
        "zl_ratio": 0.25,
    },
    "probabilities": {"targets": "narrow"},
    "wide probabilities": {"targets": "wide", "weight": True, "z_loss": 0.125, "aux": ("lse", "argmax", "entropy")},
    "softcap": {"softcap": 8.0},
    "negative scale": {"logit_scale": -0.5, "aux": ALL_AUX},
    "aux": {"aux": ALL_AUX},
    "everything": {**EVERY, "aux": ALL_AUX},
    "everything, probabilities": {**EVERY, "targets": "narrow", "aux": ("lse", "argmax", "entropy")},
    "everything, lse of more classes": {**EVERY, "lse_in": 1.5, "loss": False},
    "log_softmax": {"kind": LOG_SOFTMAX},
}
OPTIONS = {**PLAIN, **GENERAL}


class Layout(NamedTuple):
    """Where rows lie: elements after each and before the first, or as named."""

    logits: object
    grad: object  # None: over the logits


LAYOUTS = {
    "dense": Layout((0, 0), (0, 0)),
    "in place": Layout((0, 0), None),
    "padded": Layout((16, 16), (16, 16)),
    "odd": Layout((3, 1), (3, 1)),
    "odd, in place": Layout((5, 3), None),
    "apart": Layout((3, 1), (1, 0)),  # shifted otherwise than the gradient
    "strided": Layout("every second", (0, 0)),
    "in two steps": Layout("in two steps", "in two steps"),
}
TARGETS = ("int64", "uint64", "int32", "uint32", "int16", "uint16", "int8", "uint8")
ERRORS = (None, "high", "low", 7)

# Devices whose PTX differs: see test_compile.py.
DEVICES = ("7.5", "8.0", "9.0", "10.0")


class Case(NamedTuple):
    kernel: str
    dtype: str
    options: str
    n_classes: int
    layout: str
    schedule: str
    error: object
    targets: str = "int64"
    device: str = "9.0"


FACTORS = (KERNELS, FLOAT_TYPES, tuple(OPTIONS), CLASSES, tuple(LAYOUTS), tuple(SCHEDULES), ERRORS, TARGETS, DEVICES)


def allowed(case):
    fits = case.n_classes < np.iinfo(case.targets).max
    return fits and (case.kernel != "warp" or case.n_classes <= MOST_OF_A_WARP)


# Options, number of classes, layout, schedule, error and targets by which every instruction of a kernel is executed:
# each branch of the options, rows long enough for loops that the compiler unrolled, every way in which rows may lie.
# 0 stands for the longest rows, which take the interpreter a third of the time in lockstep.
CHOSEN = {
    True: (
        ("plain", 0, "odd", "lockstep", None, "uint64"),
        ("weights", 200, "dense", "random", "high", "int32"),
        ("z-loss, upstream", 513, "apart", "warp-serial", "low", "int16"),
        ("scales of the device", 0, "strided", "lockstep", 7, "uint16"),
        ("scale", 0, "in two steps", "lockstep", "high", "uint32"),
        ("loss alone", 0, "padded", "lockstep", "low", "int64"),
        ("lse given", 7, "odd, in place", "random", 7, "int8"),
        ("lse of more classes", 0, "in place", "lockstep", None, "int64"),
        ("softmax", 1001, "apart", "warp-serial", 7, "int64"),
        ("logsumexp", 1001, "odd", "warp-reverse", "low", "int64"),
        ("lse given", 1, "dense", "warp-serial", "high", "uint8"),
        ("scale", 7, "strided", "warp-reverse", None, "int64"),
    ),
    False: (
        ("everything", 0, "odd", "lockstep", None, "uint64"),
        ("everything, probabilities", 513, "apart", "warp-reverse", "high", "int64"),
        ("wide probabilities", 201, "in two steps", "random", "low", "int64"),
        ("everything, lse of more classes", 0, "padded", "lockstep", 7, "int32"),
        ("smoothing, weights", 0, "strided", "lockstep", "low", "int16"),
        ("negative scale", 33, "odd, in place", "random", 7, "int8"),
        ("log_softmax", 0, "odd", "lockstep", "high", "int64"),
        ("log_softmax", 200, "apart", "warp-reverse", None, "int64"),
        ("softcap", 1, "dense", "warp-serial", None, "uint16"),
        ("probabilities", 513, "in place", "warp-serial", "low", "int64"),
    ),
}


def longest(kernel, dtype):
    """Rows of four rounds at least of all threads, which is what loops are unrolled to; or two tiles of each."""
    of_four_bytes = {"warp": MOST_OF_A_WARP, "split": 2 * CLASSES[-1]}.get(kernel, CLASSES[-1])
    return of_four_bytes * (2 if dtype in ("float16", "bfloat16") else 1)


def chosen(kernel, dtype, plain):
    """The cases in which every instruction of a kernel is executed."""
    long = longest(kernel, dtype)
    return [Case(kernel, dtype, options, n or long, *rest) for options, n, *rest in CHOSEN[plain]]


def pairs_of(case):
    """Pairs of values; and the kernel itself, as compiled for a device."""
    text = case.kernel, case.dtype, case.options in PLAIN, case.device
    return {*itertools.combinations(enumerate(case), 2), text}


def number_of(device):
    """The stand-in's number of a device."""
    return standin.CAPABILITIES.index(tuple(map(int, device.split("."))))


def every_pair(seen=()):
    """Few cases that have, with those seen already, all that `pairs_of` can give: each the best of some of chance."""
    rng = np.random.default_rng(3)
    left = {
        pair
        for (i, a), (j, b) in itertools.combinations(enumerate(FACTORS), 2)
        for pair in itertools.product([(i, v) for v in a], [(j, v) for v in b])
    }
    left -= {((0, "warp"), (3, n)) for n in CLASSES if n > MOST_OF_A_WARP}
    left -= {((3, n), (7, name)) for n in CLASSES for name in TARGETS if n >= np.iinfo(name).max}
    left |= set(itertools.product(KERNELS, FLOAT_TYPES, (True, False), DEVICES))
    for case in seen:
        left -= pairs_of(case)
    cases = []
    for first in sorted(left, key=str):
        while first in left:
            tries = [case for case in (_with(rng, first) for _ in range(30)) if allowed(case)]
            best = max(tries, key=lambda case: len(pairs_of(case) & left), default=None)
            if best is not None:
                cases.append(best)
                left -= pairs_of(best)
    # One kernel after the other: what the interpreter makes of its text is kept for a while.
    return sorted(cases, key=lambda case: (case.kernel, case.dtype, case.options in PLAIN, case.device))


def _with(rng, first):
    """A case of chance with a pair, or with what else `pairs_of` gives."""
    case = [values[rng.integers(len(values))] for values in FACTORS]
    if isinstance(first[0], str):
        kernel, dtype, plain, device = first
        options = tuple(PLAIN if plain else GENERAL)
        return Case(kernel, dtype, options[rng.integers(len(options))], *case[3:-1], device)
    for i, value in first:
        case[i] = value
    return Case(*case)


THREADS = 64  # of `online` and `split`


def choice(name, dtype, plain, n_rows, n_classes, with_grad):
    """The launches of a kernel, with few threads and little memory, so that small rows are several pieces."""
    of_type = numbers(dtype)
    if name == "warp":
        return launch.warp(of_type, plain, n_rows, n_classes)
    chunks = launch.chunks_of(of_type, n_classes, SECTOR_BYTES)
    if name == "block":
        return launch.block(launch.Device((9, 0), 132), of_type, plain, n_rows, chunks)
    tile = 0 if plain else 256  # (plain rows are kept nowhere)
    if name == "online":
        return launch.online(of_type, plain, n_rows, chunks, THREADS, tile)
    part = -(-chunks // 3)
    return launch.split(of_type, plain, n_rows, chunks, with_grad, THREADS, part, tile)


def choice_of_table(name, device, dtype, n_rows, n_classes):
    """The launches of a kernel for plain rows as the launch table has them, whether or not it would choose them."""
    of_type = numbers(dtype)
    chunks = launch.chunks_of(of_type, n_classes, SECTOR_BYTES)
    if name == "warp":
        return launch.warp(of_type, True, n_rows, n_classes)
    if name == "block":
        return launch.block(device, of_type, True, n_rows, chunks)
    if name == "online":
        threads = launch.online_threads(device, of_type, n_rows, chunks)
        return launch.online(of_type, True, n_rows, chunks, threads, 0)
    return launch._split(device, of_type, True, n_rows, chunks, True)
