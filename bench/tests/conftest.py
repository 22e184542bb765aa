"""`pytest bench` times the quick choice; `pytest bench --full-table` every cell."""

from __future__ import annotations

import sys

import pytest

from fastce import bench
from fastce.bench.cases import select

# pytest imports the package of a path by the name of its folder, under which this one refuses to be imported.
sys.modules["bench"] = bench


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the whole table."""
    parser.addoption("--full-table", action="store_true", help="time every cell of the table, not only the quick ones")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each cell."""
    if "case" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full-table")
        metafunc.parametrize("case", select(quick=not full), ids=lambda case: "-".join(map(str, case)))
