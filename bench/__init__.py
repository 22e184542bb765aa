"""Benchmarks of fastce: what is timed is first checked; all contenders of a cell are timed interleaved, in one run.

==================  ==================================================================================
`cases.py`          the table: shapes, types, functions with the bytes they move, providers, quick choice
`data.py`           synthetic logits: some rows sure and right, some sure and wrong, some unsure
`baseline.py`       the NumPy baseline
`contenders.py`     one small function for each provider and function of the table
`check.py`          every contender against the float64 oracle, before it is timed
`timing.py`         interleaved rounds
`run.py`            data, check, timing: case -> record; a list of records with the machine: results
`report.py`         results (JSON) -> tables in the terminal and in README.md, and the picture (`picture.py`)
`test_*.py`         the same table for pytest-benchmark: `pytest bench`
`train_*.py`        training on real data with fastce and with the baseline
==================  ==================================================================================

`python -m bench --help` lists the options of the command line.
"""
