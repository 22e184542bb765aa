"""`pytest bench` times the quick choice; `pytest bench --full-table` every cell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastce import bench
from fastce.bench.cases import select

# pytest imports the package of a path by the name of its folder, under which this one refuses to be imported.
sys.modules["bench"] = bench


def pytest_configure(config: pytest.Config) -> None:
    """Look for tests in this folder alone: a module of the package would be imported again, and replace itself."""
    config.option.ignore = [*(config.option.ignore or []), *map(str, Path(__file__).parents[1].glob("*.py"))]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the whole table."""
    parser.addoption("--full-table", action="store_true", help="time every cell of the table, not only the quick ones")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each cell."""
    if "case" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full-table")
        metafunc.parametrize("case", select(quick=not full), ids=lambda case: "-".join(map(str, case)))
