"""What `limits.py` found -> tables, and the sentences that say how to read them."""

from __future__ import annotations

from .cases import FUNCTIONS, PROVIDERS
from .report import lay_out, markdown_table, wrap
from .run import Record, Results
from .tables import SHOWN, Table, capital, duration, origin, select, shape

START, END = "<!-- limits:start -->", "<!-- limits:end -->"

STEPS = {  # of a small call: what has been timed, and what that has beside the step before
    "nothing": "Numba's call of a compiled function with these arguments",
    "kernel": "the compiled function: checks of the targets, loss and gradient",
    "launch": "choosing it, in Python",
    "fastce": "checks of the arguments and the result's tuple, in Python",
}


class Limits:
    """Seconds of a cell: what it takes, and what it would take at least, where that was found."""

    def __init__(self, r: Record) -> None:
        values = r["values"]["limits"]
        self.threads = int(values["threads"])
        self.fastce = median(r, "fastce")
        self.memory = median(r, "copy" if "copy" in r["times"] else "read")
        self.arithmetic = self.alone = 0.0
        if "fused" in values:
            self.arithmetic = values["arithmetic"] / values["fused"] * median(r, "fused")
        if "one row" in values:
            self.alone = median(r, "one row") / values["one row"]


def median(r: Record, name: str) -> float:
    """Seconds of a call."""
    return r["times"][name]["median"]


def instructions_table(r: Record) -> Table:
    """Tabulate the instructions of each pass for 16 elements."""
    rows = [["for each 16 elements", "instructions", "arithmetic", "reading", "writing"]]
    for name, counts in r["values"].items():
        rows.append([name, *(f"{counts[key]:.1f}" for key in ("all", "arithmetic", "loads", "stores"))])
    return rows


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
    for r in records:
        found = Limits(r)
        what = [] if r["function"] == SHOWN[0] else [FUNCTIONS[r["function"]].title]
        rows.append(
            [
                ", ".join([*what, *([] if r["dtype"] == SHOWN[1] else [r["dtype"]]), shape(r)]),
                str(found.threads),
                duration(found.memory),
                duration(found.arithmetic) if found.arithmetic else "",
                duration(found.alone) if found.alone else "",
                duration(found.fastce),
                *(f"at most {min(1, found.memory / s):.2f}" if s else "" for s in (found.arithmetic, found.alone)),
                f"{found.memory / found.fastce:.2f}",
            ]
        )
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
    found = {"Loss with gradient, float32, and where something else is said": cells_table(select(results, "limits"))}
    for r in select(results, "small call"):
        found[f"{capital(FUNCTIONS[r['function']].title)}, {r['dtype']}, {shape(r)}"] = small_table(r)
    for r in select(results, "instructions"):
        found[f"Instructions, {r['dtype']}"] = instructions_table(r)
    return found


def sentences(results: Results) -> list[str]:
    """Say how to read the tables, and what follows for those who compete."""
    lines = [
        "By arithmetic: the vector instructions that compute (of less than 512 bits, those that multiply), counted in "
        "the machine code of the kernels' loops (without loads, stores, jumps and the ends of rows), each as fast as "
        "this machine does fused multiply-adds that never wait. By instructions: the kernels on rows that all lie in "
        "the memory of one, in the nearest cache, timed on one thread and shared by all. Copy, or of forward a sum of "
        "the logits as integers: as many bytes, and nothing computed. All of a line are timed in turn.",
    ]
    cells = select(results, "limits")
    rates = [v["fused"] / v["threads"] / median(r, "fused") for r in cells if "fused" in (v := r["values"]["limits"])]
    if rates and min(rates) < 0.7 * max(rates):
        lines.append(
            "In some lines the processor was busy with something else: its arithmetic was slower. Measure again."
        )
    for r in cells:
        if "jax" in r["times"]:
            found, jax = Limits(r), median(r, "jax")
            lines.append(
                f"{capital(FUNCTIONS[r['function']].title)}, {shape(r)}: JAX takes {duration(jax)}, and reading the "
                f"logits {duration(found.memory)}: {jax / found.memory:.1f} times as fast as JAX is the limit, and "
                f"{jax / found.fastce:.1f} times is fastce."
            )
    for r in select(results, "small call"):
        if "sklearn" in r["times"]:
            whole, peer = median(r, "fastce"), median(r, "sklearn")
            without = whole - (median(r, "kernel") - median(r, "nothing"))
            lines.append(
                f"{shape(r)}: with a compiled function that does nothing, the call would take {duration(without)}, and "
                f"be {peer / without:.1f} times as fast as scikit-learn; it is {peer / whole:.1f} times as fast."
            )
    return [*lines, *origin(results)]


def to_text(results: Results) -> str:
    """Lay the tables out for the terminal."""
    parts = [f"{name}\n\n{lay_out(rows)}" for name, rows in tables(results).items()]
    return "\n\n".join([*parts, wrap(sentences(results))])


def to_markdown(results: Results) -> str:
    """Lay the tables out for the README: the first in sight, the others folded."""
    (name, rows), *others = tables(results).items()
    parts = [f"{name}:\n\n{markdown_table(rows)}"]
    parts += [f"<details><summary>{name}</summary>\n\n{markdown_table(rows)}\n\n</details>" for name, rows in others]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in sentences(results))])
