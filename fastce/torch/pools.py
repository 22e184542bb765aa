"""Two pools of threads, PyTorch's and Numba's, on the same cores."""

from __future__ import annotations

import contextlib
import importlib
import os

_SAID = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # whoever sets one of them knows what they want


def let_idle_threads_sleep() -> None:
    """Have Numba's threads, where they are GNU OpenMP's, sleep between calls rather than spin.

    They would spin for milliseconds, on the cores that PyTorch's next matrix product needs: see
    `bench/train_words.py`. The runtime reads this from the environment when it is loaded, which is now; after that, the
    environment is what it was. Where it is loaded already, nothing changes.
    """
    if any(name in os.environ for name in _SAID):
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        with contextlib.suppress(ImportError):  # a Numba without OpenMP
            importlib.import_module("numba.np.ufunc.omppool")
    finally:
        del os.environ["OMP_WAIT_POLICY"]
