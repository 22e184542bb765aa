"""Kernels for arrays on NVIDIA GPUs, by Numba.

``backend.py`` is the way in: of CuPy arrays it fills CuPy arrays, without waiting for the GPU. Its launches are put
together in ``tasks.py`` and ``totals.py``, by the table in ``launch.py``, and made by ``run.py``: these know CuPy. All
else compiles without it, and without a GPU.
"""
