"""A small transformer in PyTorch, on the English of `pydoc_data.topics`, with PyTorch's loss and with fastce's.

The vocabulary is of byte pairs, found in the text itself. Three models start from the same numbers and see the same
batches; they take their steps in turn, so that a slow moment of the machine meets all. Peak memory is that of a few
steps in a process of its own. Run with `python -m fastce.bench.train_transformer`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from fastce.torch import cross_entropy

from . import memory

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 8192, 64, 128, 4, 2
BATCH, RATE, STEPS, EVERY = 16, 1e-3, 100, 20
TOLERANCE = 1e-3  # relative, of the losses: rounding, amplified by training

LOSSES: dict[str, Callable[..., Tensor]] = {
    "PyTorch": nn.functional.cross_entropy,
    "fastce": cross_entropy,
    "fastce in place": partial(cross_entropy, inplace=True),
}


def byte_pairs(words: Counter[str], size: int) -> dict[str, list[int]]:
    """Split words into `size` pieces: join the most frequent pair of neighbours, again and again, beginning with bytes.

    The pairs are counted once, and after that only in the words that change.
    """
    pieces = {word: list(word.encode()) for word in words}
    counts, places = Counter[tuple[int, int]](), defaultdict[tuple[int, int], set[str]](set)
    for word, split in pieces.items():
        for pair in itertools.pairwise(split):
            counts[pair] += words[word]
            places[pair].add(word)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(queue)
    for joined in range(256, size):
        while True:
            count, best = heapq.heappop(queue)
            if counts[best] == -count:  # else it has changed since
                break
        changed = set[tuple[int, int]]()
        for word in places.pop(best):
            split = pieces[word]
            for pair in itertools.pairwise(split):
                counts[pair] -= words[word]
                changed.add(pair)
            pieces[word] = split = _join(split, best, joined)
            for pair in itertools.pairwise(split):
                counts[pair] += words[word]
                places[pair].add(word)
                changed.add(pair)
        for pair in changed:
            if counts[pair] > 0:
                heapq.heappush(queue, (-counts[pair], pair))
    return pieces


def _join(split: list[int], pair: tuple[int, int], joined: int) -> list[int]:
    result, i = list[int](), 0
    while i < len(split):
        if tuple(split[i : i + 2]) == pair:
            result.append(joined)
            i += 2
        else:
            result.append(split[i])
            i += 1
    return result


def load() -> Tensor:
    """Give the text as one sequence of pieces."""
    words = re.findall(r"\s*\S+", "\n".join(topics[name] for name in sorted(topics)))
    pieces = byte_pairs(Counter(words), VOCABULARY)
    return torch.tensor([piece for word in words for piece in pieces[word]])


class Model(nn.Module):
    """Embeddings, transformer layers that see the past, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (rows, VOCABULARY) of pieces (batch, CONTEXT)."""
        h = self.pieces(x) + self.places.weight
        logits: Tensor = self.head(self.layers(h, mask=self.mask, is_causal=True).view(-1, WIDTH))
        return logits


class Run:
    """A model in training."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.loss, self.model = LOSSES[name], Model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        """Take one step."""
        start = time.perf_counter()
        loss = self.loss(self.model(x), y.view(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())


def batches(text: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give pieces, and those that follow each of them."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        windows = text[starts + torch.arange(CONTEXT + 1)]
        yield windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def peak(name: str) -> int:
    """Bytes by which a process of its own grows at most in a step, after some that warm it up."""
    return memory.printed_by(["fastce.bench.train_transformer", "--memory-of", name])


def growth(name: str) -> int:
    """Bytes by which this process grows at most in a step, the third."""
    run = Run(name)
    before = 0
    for i, (x, y) in enumerate(batches(torch.arange(10 * VOCABULARY) % VOCABULARY, 3)):
        if i == 2:
            before = memory.kilobytes("VmRSS")
            memory.RESET.write_text("5", encoding="ascii")  # the peak is what is there now
        run.step(x, y)
    return 1024 * (memory.kilobytes("VmHWM") - before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with each loss; print losses, times, memory; raise AssertionError if the losses differ or do not fall."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.train_transformer", description=main.__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--memory-of", choices=LOSSES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of:
        print(growth(options.memory_of))
        return
    text = load()
    elements = BATCH * CONTEXT * VOCABULARY
    print(
        f"{len(text):,} pieces of a vocabulary of {VOCABULARY:,}; {options.steps} steps of {BATCH * CONTEXT:,} pieces, "
        f"logits of {4 * elements / 1e6:.0f} MB; {torch.get_num_threads()} threads"
    )
    runs = {name: Run(name) for name in LOSSES}
    for i, (x, y) in enumerate(batches(text, options.steps)):
        for run in runs.values():
            run.step(x, y)
        if i % EVERY == 0 or i == options.steps - 1:
            print(
                f"  step {i:4}: " + ", ".join(f"{name} {run.losses[-1]:.6f}" for name, run in runs.items()), flush=True
            )
    theirs = runs["PyTorch"]
    for name, run in runs.items():
        difference = max(abs(a / b - 1) for a, b in zip(run.losses, theirs.losses, strict=True))
        grows = f"{peak(name) / 1e6:.0f} MB at the peak" if memory.available() else "peak memory: only Linux tells it"
        print(
            f"{name:<16} a step {statistics.median(run.seconds[1:]) * 1e3:.1f} ms, {grows}; "
            f"losses differ from PyTorch's by {difference:.1e} at most"
        )
        if difference > TOLERANCE:
            raise AssertionError(f"the losses of {name} are not PyTorch's")
    if not theirs.losses[-1] < theirs.losses[0]:
        raise AssertionError(f"the losses do not fall: {theirs.losses}")


if __name__ == "__main__":
    main()
