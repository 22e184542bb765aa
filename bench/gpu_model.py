"""A model of the kernels' speed on GPUs: bytes and instructions, counted, over the rates of data sheets.

The time of loss and gradient is the longer of two: that of the memory, for the bytes that the kernel reads and
writes, and that of the multiprocessors, for the instructions of its threads, all taken to be as fast as those of
float32 (A100 and T4 do integer ones beside them, and may be faster). Launches, latencies and the last wave of blocks
are left out, and so are few rows, where these are most of the time: what was measured on an H200 is beside it in
RESULTS.md. Rows that are read twice come from memory once where a cache holds those that are being worked on.

`python -m fastce.bench.gpu_model --readme bench/RESULTS.md` writes the table into that file; it needs numba-cuda,
no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastce.kernels.gpu.kernels import BUSY
from fastce.kernels.gpu.launch import Device, Launch, choose

from .cases import Case
from .report import lay_out, markdown_table, write_between_markers
from .tables import Table, duration

START, END = "<!-- gpu-model:start -->", "<!-- gpu-model:end -->"


class Gpu(NamedTuple):
    """A data sheet; `issue`: thread-instructions of float32 that a multiprocessor does in a clock cycle."""

    capability: tuple[int, int]
    multiprocessors: int
    ghz: float  # boost
    issue: int
    gigabytes: float  # a second, of memory
    tflops: float  # of float32, as the data sheet says: two operations for each of these instructions
    cache_mib: int  # of the second level

    @property
    def instructions(self) -> float:
        """Thread-instructions a second."""
        return self.multiprocessors * self.issue * self.ghz * 1e9


GPUS = {
    "H200": Gpu((9, 0), 132, 1.98, 128, 4800, 67, 50),
    "H100 SXM": Gpu((9, 0), 132, 1.98, 128, 3350, 67, 50),
    "A100 80 GB SXM": Gpu((8, 0), 108, 1.41, 64, 2039, 19.5, 40),
    "RTX 5090": Gpu((12, 0), 170, 2.41, 128, 1792, 104.8, 96),
    "RTX 4090": Gpu((8, 9), 128, 2.52, 128, 1008, 82.6, 72),
    "L40S": Gpu((8, 9), 142, 2.52, 128, 864, 91.6, 96),
    "L4": Gpu((8, 9), 58, 2.04, 128, 300, 30.3, 48),
    "T4": Gpu((7, 5), 40, 1.59, 64, 320, 8.1, 4),
}


class Count(NamedTuple):
    """What a kernel does: instructions for each element and for each thread of a row, and reads of each element."""

    element: float
    thread: float
    reads: int


# Counted by executing the PTX of compute capability 9.0, plain cross-entropy of class targets with gradient, in an
# interpreter: instructions of all threads at two sizes of a row, which give the two numbers (warp: 144 and 256 classes;
# block: 16,384 and 32,000; online: 65,536 and 131,072). PTX is not machine code, which may have some instructions more
# or less.
COUNTS = {
    ("warp", "float32"): Count(10.7, 561, 2),
    ("warp", "16 bits"): Count(14.5, 535, 2),
    ("block", "float32"): Count(12.4, 181, 1),
    ("block", "16 bits"): Count(13.8, 178, 1),
    ("online", "float32"): Count(12.3, 292, 2),
    ("online", "16 bits"): Count(14.7, 292, 2),
}
WRITES = 1
# Sectors of 32 bytes that are accessed, by those that logits and gradient take: counted likewise, 4,096 bfloat16.
SECTORS = 1.008
ROW_BYTES = 8 + 4  # target and loss


class Prediction(NamedTuple):
    """Kernel, and the seconds that its bytes and its instructions take."""

    kernel: str
    memory: float
    instructions: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.memory, self.instructions)


def predict(gpu: Gpu, case: Case) -> Prediction:
    """Predict the time of loss and gradient.

    Raises
    ------
    ValueError
        For a function that was not counted, and for so few rows that the grid shares them.
    """
    if case.function != "gradient":
        raise ValueError(f"only loss with gradient was counted, not {case.function}")
    device = Device(gpu.capability, gpu.multiprocessors)
    choice = choose(device, case.dtype, True, case.n_rows, case.n_classes, True)
    (launch, *others) = choice.launches
    if others:
        raise ValueError(f"{case.n_rows} rows are too few for this model")
    count = COUNTS[launch.name, "float32" if case.dtype == "float32" else "16 bits"]
    reads = 1 if _cached(gpu, case, launch) else count.reads
    moved = (reads + WRITES) * case.logits_bytes * SECTORS + ROW_BYTES * case.n_rows
    of_row = count.element * case.n_classes + count.thread * _threads_of_row(launch, choice.lane_bits)
    return Prediction(launch.name, moved / gpu.gigabytes / 1e9, case.n_rows * of_row / gpu.instructions)


def _cached(gpu: Gpu, case: Case, launch: Launch) -> bool:
    """Whether the second-level cache holds the rows that are being worked on."""
    if launch.name == "warp":
        return True
    rows = gpu.multiprocessors * (BUSY // launch.threads)
    return rows * case.logits_bytes // case.n_rows <= gpu.cache_mib << 20


def _threads_of_row(launch: Launch, lane_bits: int) -> int:
    return 1 << lane_bits if launch.name == "warp" else launch.threads


# The first, the middle and the last of quack's shapes, and one of a row that fits on every chip.
SHOWN = [
    Case("gradient", dtype, n_rows, n_classes)
    for dtype in ("float32", "bfloat16")
    for n_rows, n_classes in ((32768, 256), (32768, 4096), (32768, 32768), (8192, 262144))
]


def table() -> Table:
    """Tabulate, for each GPU, time and share of the speed of its memory; `*`: instructions take longer than bytes."""
    rows = [["", *(f"{case.dtype}, {case.n_rows:,} x {case.n_classes:,}" for case in SHOWN)]]
    for name, gpu in GPUS.items():
        cells = []
        for case in SHOWN:
            found = predict(gpu, case)
            share = case.bytes_moved / found.seconds / 1e9 / gpu.gigabytes
            mark = "*" if found.instructions > found.memory else ""
            cells.append(f"{duration(found.seconds)}{mark} ({share:.0%})")
        rows.append([name, *cells])
    return rows


def to_markdown() -> str:
    """What stands in RESULTS.md."""
    return (
        "**A model's prediction, not a measurement**, for GPUs on which the kernels have not run, too. Loss "
        "with gradient, at best: bytes and instructions, counted in an interpreter of the kernels' assembly, by the "
        "rates of data sheets, whichever takes longer (* where that is the instructions). In brackets the share of the "
        "memory's speed, each logit read once and each element of the gradient written once; rows too long for the "
        "caches are read twice. `bench/gpu_model.py` has the numbers.\n\n" + markdown_table(table())
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the predictions; write them into RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.gpu_model", description=main.__doc__)
    parser.add_argument("--readme", type=Path, help="file with the markers")
    options = parser.parse_args(arguments)
    print(lay_out(table()))
    if options.readme:
        write_between_markers(options.readme, to_markdown(), START, END)


if __name__ == "__main__":
    main()
