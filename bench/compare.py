"""Two saved runs: what of fastce became slower or faster, beyond the noise that both runs saw.

A change counts where the medians differ by more than 5 % and than the quartile spreads of both runs together. Peers and
yardsticks, which nobody changed, tell how much the machine did.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

from .cases import OURS
from .measurements import MEASURED_BY_PROVIDER, title_of
from .run import Record, Results, Times
from .tables import duration, shape, title

LEAST = 0.05  # a change below this share is noise, whatever the quartiles say: runs differ more than their rounds do
Key = tuple[str, str, str, int, int, str]  # measurement, function, type, rows, classes, contender


class Change(NamedTuple):
    """A time in both runs: the new median in units of the old, and the noise in the same unit."""

    key: Key
    label: str
    old: Times
    new: Times

    @property
    def ratio(self) -> float:
        """New time by old time."""
        return self.new["median"] / self.old["median"]

    @property
    def noise(self) -> float:
        """Quartile spreads of both runs together, in the unit of the ratio."""
        return sum(t["q75"] - t["q25"] for t in (self.old, self.new)) / self.old["median"]

    @property
    def real(self) -> bool:
        """Whether it is more than noise."""
        return abs(self.ratio - 1) > max(self.noise, LEAST)

    def __str__(self) -> str:
        times = f"{duration(self.old['median'])} -> {duration(self.new['median'])}"
        return f"{self.ratio:5.2f} times  {self.label}: {times} (noise {self.noise:.0%})"


class Comparison(NamedTuple):
    """Text to print, and whether something of fastce became slower."""

    text: str
    slower: bool


def compare(old: Results, new: Results) -> Comparison:
    """Compare the times that both runs have.

    Raises
    ------
    ValueError
        If they have none in common.
    """
    before, after = _times(old), _times(new)
    changes = [Change(key, label, times, after[key][1]) for key, (label, times) in before.items() if key in after]
    if not changes:
        raise ValueError("the two runs have no cell in common")
    ours = [change for change in changes if _is_ours(change.key)]
    others = [change.ratio for change in changes if not _is_ours(change.key)]
    slower = sorted((c for c in ours if c.real and c.ratio > 1), key=lambda c: -c.ratio)
    faster = sorted((c for c in ours if c.real and c.ratio < 1), key=lambda c: c.ratio)
    lines = _unequal(old, new)
    for word, found in (("Slower", slower), ("Faster", faster)):
        lines += [f"{word}: {len(found)} of {len(ours)} times of fastce.", *(f"  {change}" for change in found)]
    if others:
        lines.append(
            f"Peers and yardsticks took {statistics.median(others):.2f} times as long in the median: what the machine "
            "or their versions changed."
        )
    for name, one, other in (("first", before, after), ("second", after, before)):
        if one.keys() - other.keys():
            lines.append(f"In the {name} run alone: {len(one.keys() - other.keys())} times.")
    return Comparison("\n".join(lines), bool(slower))


def _times(results: Results) -> dict[Key, tuple[str, Times]]:
    return {_key(r, name): (_label(r, name), times) for r in results["records"] for name, times in r["times"].items()}


def _key(r: Record, contender: str) -> Key:
    return r["measurement"], r["function"], r["dtype"], r["n_rows"], r["n_classes"], contender


def _label(r: Record, contender: str) -> str:
    cell = f"{title((r['function'], r['dtype']))}, {shape(r)}, {title_of(contender, r['measurement'])}"
    return cell if r["measurement"] == "speed" else f"{r['measurement']}, {cell}"


def _is_ours(key: Key) -> bool:
    """Whether fastce computes: measurements that are not by provider time nothing else."""
    return key[0] not in MEASURED_BY_PROVIDER or key[-1] in OURS


def _unequal(old: Results, new: Results) -> list[str]:
    """Say what differs between the machines and versions."""
    lines = []
    for part, one, other in (
        ("machine", old["machine"], new["machine"]),
        ("version", old["versions"], new["versions"]),
    ):
        for name in dict.fromkeys((*one, *other)):
            if one.get(name) != other.get(name):
                lines.append(f"Not the same {part}: {name} {one.get(name, '-')} -> {other.get(name, '-')}.")
    return lines
