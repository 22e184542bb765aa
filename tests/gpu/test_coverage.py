"""Every instruction of every kernel is executed by some test, with results that are right; what is not is explained."""

import re

import numpy as np
import pytest
from conftest import FLOAT_TYPES

pytest.importorskip("numba_cuda", reason="numba-cuda, which compiles for GPUs, is not installed")

from .cases import KERNELS, chosen
from .running import check_case

# Instructions in a row that nothing executes, as a regular expression of their opcodes and what else tells them from
# others, and why.
UNCOVERED = {
    r"div\.u64; bra(\.uni)?": "how often a loop is to run, where its numbers need more than 32 bits: 2**35 classes",
}


def stretches(counters):
    """Uncovered instructions that follow each other: opcodes, and the text of the first and the last."""
    found, lines = [], dict(counters.uncovered())
    for instruction in counters.kernel.instructions:
        if instruction.line not in lines:
            found.append([])
        elif not found:
            found.append([instruction])
        else:
            found[-1].append(instruction)
    for stretch in filter(None, found):
        text = [re.sub(r"\s+", " ", lines[i.line]) for i in stretch]
        yield (
            "; ".join(re.sub(r"^@\S+ ", "", t).split(" ")[0] for t in text),
            f"line {stretch[0].line}: {text[0]} ... {text[-1]}",
        )


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "general"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_instruction_is_executed(gpu, tasks, monkeypatch, kernel, dtype, plain):
    total = None
    for case in chosen(kernel, dtype, plain):
        counters = check_case(gpu, tasks, monkeypatch, np.random.default_rng(5), case)
        if total is None:
            total = counters
        else:
            for all_of_it, more in zip(total, counters, strict=True):
                all_of_it += more
    for counters in total:
        left = [where for opcodes, where in stretches(counters) if not any(re.fullmatch(e, opcodes) for e in UNCOVERED)]
        assert left == [], "\n".join([counters.kernel.name.split("gpu")[-1][:40], *left])
