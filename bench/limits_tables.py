"""What `limits.py` found -> tables, and the sentences that say how to read them."""

from __future__ import annotations

from typing import NamedTuple

from .cases import FUNCTIONS, PROVIDERS
from .report import folded, lay_out, markdown_table, wrap
from .run import Record, Results
from .tables import SHOWN, Table, capital, duration, left_out, origin, select, shape


def markers(section: str) -> tuple[str, str]:
    """Between which lines of RESULTS.md the tables are."""
    return f"<!-- {section}:start -->", f"<!-- {section}:end -->"


PEERS = ("numpy", "sklearn", "torch", "jax")
Rates = dict[str, float]  # steps a second of a thread
STEPS_TIMED = ("fused", "mixed")
COUNTED = {  # of a pass, and what it is called; what multiplies is not in the oldest results
    "all": "instructions",
    "arithmetic": "arithmetic",
    "products": "multiplying",
    "loads": "reading",
    "stores": "writing",
}
LONG = 1e-3  # seconds of a call, beside which the way to the threads is nothing
LIMITED_BY = ("by arithmetic", "by instructions", "fastce")
STEPS = {  # of a small call: what has been timed, and what that has beside the step before
    "nothing": "a compiled function called with such arguments, that does nothing",
    "kernel": "what it does: checks, loss and gradient",
    "launch": "what Python does around it",
    "fastce": "the function with its options, and the tuple that it gives",
}


class Limits(NamedTuple):
    """Seconds of a cell: what it takes, and what it would take at least, or 0 where that was not found."""

    threads: int
    fastce: float
    memory: float
    least_memory: float
    arithmetic: float
    alone: float

    def proper(self) -> list[float]:
        """Those by arithmetic and by instructions; 0 for one that fastce beat, timed when others had the processor."""
        return [s if s < self.fastce else 0.0 for s in (self.arithmetic, self.alone)]


def limits_of(r: Record, rates: Rates) -> Limits:
    """What was found of a cell."""
    values, memory = r["values"]["limits"], "copy" if "copy" in r["times"] else "read"
    # (before there was a mixture, what is now called arithmetic counted what multiplies, or has the same units)
    needs = [("products", rates["fused"]), ("arithmetic", rates["mixed"] or rates["fused"])]
    arithmetic = max((values[what] / rate for what, rate in needs if what in values), default=0.0)
    return Limits(
        threads=int(values["threads"]),
        fastce=median(r, "fastce"),
        memory=median(r, memory),
        least_memory=least(r, memory),
        arithmetic=arithmetic / values["threads"],
        alone=least(r, "one row") / values["one row"] if "one row" in values else 0.0,
    )


def best_rates(records: list[Record]) -> Rates:
    """Steps a second that a thread did at best, in any cell: of fused multiply-adds, and of a mixture; 0 if none.

    (Not each in its own: where others share the processor, a slow moment would make a limit of what is none.)
    """
    found = dict.fromkeys(STEPS_TIMED, 0.0)
    for r in records:
        for name in found.keys() & r["times"].keys():
            values = r["values"]["limits"]
            found[name] = max(found[name], values[name] / values["threads"] / least(r, name))
    return found


def median(r: Record, name: str) -> float:
    """Seconds of a call."""
    return r["times"][name]["median"]


def least(r: Record, name: str) -> float:
    """Seconds of the fastest call."""
    return r["times"][name]["min"]


def instructions_table(r: Record) -> Table:
    """Tabulate the instructions of each pass for 16 elements."""
    shown = [key for key in COUNTED if all(key in counts for counts in r["values"].values())]
    rows = [["for each 16 elements", *(COUNTED[key] for key in shown)]]
    return rows + [[name, *(f"{counts[key]:.1f}" for key in shown)] for name, counts in r["values"].items()]


def cells_table(records: list[Record]) -> Table:
    """Tabulate each cell beside its limits."""
    rows = [
        [
            "rows x classes",
            "threads",
            "copy (forward: read)",
            "arithmetic, at least",
            "instructions alone",
            "fastce",
            "of copy speed: by arithmetic",
            "by instructions",
            "fastce",
        ]
    ]
    rates = best_rates(records)
    for r in records:
        found = limits_of(r, rates)
        rows.append(
            [
                cell(r),
                str(found.threads),
                duration(found.memory),
                duration(found.arithmetic) if found.arithmetic else "",
                duration(found.alone) if found.alone else "",
                duration(found.fastce),
                *(f"at most {min(1, found.memory / s):.2f}" if s else "" for s in found.proper()),
                f"{found.memory / found.fastce:.2f}",
            ]
        )
    return rows


def cell(r: Record) -> str:
    """Name a cell, by what it has beside a shape."""
    what = [] if r["function"] == SHOWN[0] else [FUNCTIONS[r["function"]].title]
    return ", ".join([*what, *([] if r["dtype"] == SHOWN[1] else [r["dtype"]]), shape(r)])


def peers_table(records: list[Record]) -> Table:
    """Tabulate how many times as fast as its peers fastce is, and could be: by the limits above, and by memory's."""
    rows = [["rows x classes"]]
    rows[0] += [f"{of}{by}" for of in ("over NumPy: ", "over the best peer: ") for by in LIMITED_BY]
    rates = best_rates(records)
    for r in records:
        found, row = limits_of(r, rates), [cell(r)]
        best = min((name for name in PEERS if name in r["times"]), key=lambda name: median(r, name))
        for name, said in (("numpy", ""), (best, f" {PROVIDERS[best].title}")):
            theirs = median(r, name)
            row += [f"at most {theirs / max(s, found.least_memory):.1f}" if s else "" for s in found.proper()]
            row.append(f"{theirs / found.fastce:.1f}{said}")
        rows.append(row)
    return rows


def small_table(r: Record) -> Table:
    """Tabulate what a small call consists of."""
    rows = [["a small call consists of", "time"]]
    before = 0.0
    for name, text in STEPS.items():
        rows.append([text, duration(median(r, name) - before)])
        before = median(r, name)
    rows.append(["all of it", duration(before)])
    rows.append(["for scale: a call of a function of Python's with three arguments", duration(median(r, "python"))])
    if "sklearn" in r["times"]:
        rows.append([f"beside it: {PROVIDERS['sklearn'].title}", duration(median(r, "sklearn"))])
    return rows


def tables(results: Results) -> dict[str, Table]:
    """Lay out everything that was measured, by title."""
    cells = select(results, "limits")
    found = {"Loss with gradient, float32, and where something else is said": cells_table(cells)}
    if beside := [r for r in cells if "numpy" in r["times"]]:
        found["Times as fast as its peers"] = peers_table(beside)
    for r in select(results, "small call"):
        found[f"{capital(FUNCTIONS[r['function']].title)}, {r['dtype']}, {shape(r)}"] = small_table(r)
    for r in select(results, "instructions"):
        found[f"Instructions, {r['dtype']}"] = instructions_table(r)
    return found


def sentences(results: Results) -> list[str]:
    """Say how to read the tables, and what follows for those who compete."""
    cells = select(results, "limits")
    what, rate = "(of less than 512 bits, those that multiply)", "fused multiply-adds that never wait"
    if best_rates(cells)["mixed"]:
        what = "(or those that multiply, if these take longer)"
        rate = "a mixture of fused multiply-adds and other steps (or those alone) that never wait"
    lines = [
        f"By arithmetic: the vector instructions that compute {what}, counted in the machine code of the kernels' "
        f"loops (without loads, stores, jumps and the ends of rows), each as fast as this machine does {rate}, at its "
        "best in this run. By instructions: the kernels on rows that all lie in the memory of one, in the nearest "
        "cache, timed on one thread, at best, and shared by all. Copy, or of forward a sum of the logits as integers: "
        "as many bytes, and nothing computed. All of a line are timed in turn.",
        "By instructions is the limit of these kernels, not of the machine. Where others share the processor, even the "
        "best times seen may not be its best: what is here called the most is then too little, from run to run by a "
        "fifth and more, and where fastce beat a limit, none is given.",
    ]
    shortest = min((least(r, "fused") for r in cells if "fused" in r["times"]), default=LONG)
    if shortest < LONG:
        lines.append(
            f"The multiply-adds were timed in calls of {duration(shortest)}, a part of which is the way to the threads "
            "and back: arithmetic may take somewhat less than is said here."
        )
    for r in cells:
        if "jax" in r["times"] and "read" in r["times"]:
            jax, memory = median(r, "jax"), median(r, "read")
            lines.append(
                f"{capital(FUNCTIONS[r['function']].title)}, {shape(r)}: JAX takes {duration(jax)}, and reading the "
                f"logits {duration(memory)}: {jax / memory:.1f} times as fast as JAX is the limit, and "
                f"{jax / median(r, 'fastce'):.1f} times is fastce."
            )
    for r in select(results, "small call"):
        if "sklearn" in r["times"]:
            whole, peer = median(r, "fastce"), median(r, "sklearn")
            without = whole - (median(r, "kernel") - median(r, "nothing"))
            lines.append(
                f"{shape(r)}: with a compiled function that does nothing, the call would take {duration(without)}, and "
                f"be {peer / without:.1f} times as fast as scikit-learn; it is {peer / whole:.1f} times as fast."
            )
    return [*lines, *origin(results), *left_out(results)]


def to_text(results: Results) -> str:
    """Lay the tables out for the terminal."""
    parts = [f"{name}\n\n{lay_out(rows)}" for name, rows in tables(results).items()]
    return "\n\n".join([*parts, wrap(sentences(results))])


def to_markdown(results: Results) -> str:
    """Lay the tables out for RESULTS.md: the first in sight, the others folded."""
    (name, rows), *others = tables(results).items()
    parts = [f"{name}:\n\n{markdown_table(rows)}"]
    parts += [folded(name, markdown_table(rows)) for name, rows in others]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in sentences(results))])
