"""What `python -m fastce info` tells: versions, processor, threads, kernel cache, optional parts."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

# Part: (module, distributions that may bring it). Looked up, never imported.
OPTIONAL_PARTS = {
    "tbb": (None, ["tbb"]),
    "ml_dtypes": ("ml_dtypes", ["ml_dtypes"]),
    "cupy": ("cupy", ["cupy", "cupy-cuda12x", "cupy-cuda13x"]),
    "numba-cuda": ("numba_cuda", ["numba-cuda"]),
    "torch": ("torch", ["torch"]),
    "jax": ("jax", ["jax"]),
    "dask": ("dask", ["dask"]),
    "scikit-learn": ("sklearn", ["scikit-learn"]),
    "xgboost": ("xgboost", ["xgboost", "xgboost-cpu"]),
    "lightgbm": ("lightgbm", ["lightgbm"]),
}

# Widest first: (feature as LLVM names it, bits of its vectors).
VECTOR_FEATURES = (("avx512f", 512), ("avx", 256), ("sse2", 128), ("neon", 128), ("asimd", 128), ("vsx", 128))


def collect() -> dict[str, dict[str, Any]]:
    """Everything `info` prints, as sections of name and value that JSON can hold."""
    return {
        "versions": versions(),
        "cpu": cpu(),
        "threads": threads(),
        "cache": {"folder": cache_folder(), "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR")},
        "optional": {name: optional_part(*where) for name, where in OPTIONAL_PARTS.items()},
    }


def versions() -> dict[str, str]:
    """Versions of fastce and of what it is built on."""
    from . import __version__

    return {
        "fastce": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "platform": platform.platform(),
    }


def cpu() -> dict[str, Any]:
    """The processor as LLVM sees it, which is what the kernels are compiled for."""
    name = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    if numba.config.CPU_FEATURES is not None:
        features = {f[1:] for f in numba.config.CPU_FEATURES.split(",") if f.startswith("+")}
    else:
        features = {f for f, there in llvmlite.binding.get_host_cpu_features().items() if there}
    bits, feature = next(((bits, f) for f, bits in VECTOR_FEATURES if f in features), (None, None))
    return {"name": name, "cores": os.cpu_count(), "vector_bits": bits, "vector_feature": feature}


def threads() -> dict[str, Any]:
    """Number of threads, and the layer that Numba starts them with here."""
    result: dict[str, Any] = {
        "available": [layer for layer in numba.config.THREADING_LAYER_PRIORITY if layer_available(layer)]
    }
    try:
        result["number"] = numba.get_num_threads()  # starts the threads, so that the layer is known, not guessed
        result["layer"] = numba.threading_layer()
    except ValueError as error:  # NUMBA_THREADING_LAYER names one that is not here
        result["number"] = None
        result["layer"] = None
        result["error"] = " ".join(str(error).split())
    result["NUMBA_NUM_THREADS"] = numba.config.NUMBA_NUM_THREADS
    return result


def layer_available(layer: str) -> bool:
    """Whether Numba can load the threading layer `layer`."""
    try:
        if layer == "tbb":  # Numba asks the system's loader for it, which does not look where pip puts it
            ctypes.CDLL({"Windows": "tbb12.dll", "Darwin": "libtbb.12.dylib"}.get(platform.system(), "libtbb.so.12"))
        importlib.import_module("numba.np.ufunc." + (layer if layer == "workqueue" else f"{layer}pool"))
    except (ImportError, OSError):
        return False
    return True


def cached_kernels() -> Iterator[Dispatcher]:
    """Kernels that Numba keeps on disk."""
    compiling = importlib.import_module(".kernels.cpu.compile", __package__)
    return (kernel for kernel in compiling.kept if kernel.stats.cache_path)


def cache_folder() -> str | None:
    """Return the folder Numba keeps the compiled kernels in, as a kernel itself tells; None without a cache."""
    return next((str(kernel.stats.cache_path) for kernel in cached_kernels()), None)


def optional_part(module: str | None, distributions: list[str]) -> str | None:
    """Version of an optional package, found without importing it; None when it is not there."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version" if module and importlib.util.find_spec(module) else None
