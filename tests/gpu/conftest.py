"""What the tests share. Without numba-cuda, pytest must not look for doctests in the kernels that need it."""

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("numba_cuda") else ["numba_kernels.py"]


@pytest.fixture(scope="module")
def gpu():
    """The stand-in, installed for the tests of a file."""
    from . import standin

    with standin.installed() as gpu:
        yield gpu


@pytest.fixture(scope="module")
def tasks(gpu):
    """The kernels' launches, as imported beside the stand-in."""
    from fastce.kernels.gpu import tasks

    return tasks
