"""Where the self-check computes: on the CPU, or on a GPU with arrays copied there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]


def on_cpu(function: Function, *args: Any, **options: Any) -> Any:
    """Call a public function as it is."""
    return function(*args, **options)


def on_gpu(function: Function, *args: Any, **options: Any) -> Any:
    """Call a public function with arrays on the GPU, and give NumPy arrays; what it writes is written here too."""
    import cupy

    there: dict[int, Any] = {}

    def send(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in there:
            there[id(value)] = cupy.asarray(value)
        return there[id(value)]

    def fetch(value: Any) -> Any:
        if isinstance(value, tuple):
            return type(value)(*map(fetch, value))
        return value.get() if isinstance(value, cupy.ndarray) else value

    if "backend" in options:
        options["backend"] = "cuda"
        if "targets" in function.__annotations__:
            options["check"] = True  # bad targets are looked for, as they are on the CPU
    sent = {name: send(value) for name, value in options.items()}
    result = function(*(send(np.asarray(a) if isinstance(a, np.generic) else a) for a in args), **sent)
    for name in ("out", "grad_out"):
        if isinstance(options.get(name), np.ndarray):
            options[name][...] = sent[name].get()
    return fetch(result)


def missing_gpu() -> str:
    """Why nothing can be computed on a GPU here; empty where it can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed: pip install 'fastce[cuda13]' (or cuda12) brings it"
    return "" if cupy.cuda.is_available() else "there is no GPU, or no driver for it"
