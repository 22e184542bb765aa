"""Without numba-cuda, pytest must not look for doctests in the kernels that need it; their tests say that they skip."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("numba_cuda") else ["numba_kernels.py"]
