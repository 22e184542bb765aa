"""Benchmarks of fastce: what is timed is first checked; all contenders of a cell are timed interleaved, in one run.

==================  ==================================================================================
`cases.py`          the table: shapes, types, functions with the bytes they move, providers, quick choice
`data.py`           synthetic logits: some rows sure and right, some sure and wrong, some unsure
`baseline.py`       the NumPy baseline
`contenders.py`     one small function for each provider and function: fastce, NumPy, copy, read; `peers.py`: the others
`check.py`          every contender against the float64 oracle, before it is timed
`timing.py`         interleaved rounds
`run.py`            data, check, timing: case -> record; a list of records with the machine: results
`measurements.py`   the table of what can be measured beside the speed; `sweep.py`, `variants.py`, `accuracy.py` and
                    `memory.py` do it
`command.py`        the command line, `python -m fastce bench`
`tables.py`         results -> tables; `report.py`: tables in the terminal, README.md and RESULTS.md
`plots.py`          results -> SVG, drawn by `svg.py`; `page.py`: results -> one HTML page with all of it
`compare.py`        two saved runs: what became slower
`limits.py`         how far the CPU kernels are from what the machine can do; `limits_tables.py`: as tables;
                    `assembly.py`: their machine code, and what is counted in it
`train_*.py`        training on real data with fastce and with the baseline, or with PyTorch's loss
`adapters_*.py`     losses for other libraries beside theirs
`gpu.py`            all of it on a GPU, in one script: `gpu_cases.py`, `gpu_contenders.py`, `gpu_peers.py`,
                    `gpu_timing.py`; `gpu_model.py`: what a model predicts, without one
`tests/`            the same table for pytest-benchmark: `pytest bench`
==================  ==================================================================================

`python -m fastce bench --help` lists the options of the command line.
"""

# The folder stands at the top level of the repository, where anybody's `bench` may stand.
if __name__ != "fastce.bench":
    raise ImportError(f"this package is fastce.bench, not {__name__}: import it under that name")
