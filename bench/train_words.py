"""A small next-word model on the English of the standard library's `pydoc_data.topics`, in plain NumPy.

The vocabulary is built from the text. The words before are embedded, go through one hidden layer, and predict the next:
the loss over the whole vocabulary and its gradient are what fastce computes, over the logits in place. Trained once
with fastce and once with the NumPy baseline, from the same start on the same batches; the perplexity of held-out
text falls alike. Run with `python -m fastce.bench.train_words`.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastce

from . import baseline

Array = NDArray[np.float32]
Loss = Callable[[Array, NDArray[np.int64]], float]  # mean loss of logits
Step = Callable[[Array, NDArray[np.int64]], float]  # the same, and overwrite the logits with their gradient

RARE = 2  # words seen less often than this in the training text are <unk>
WORDS_BEFORE, EMBEDDED, HIDDEN = 4, 32, 96
BATCH, RATE, STEPS, EVERY = 512, 0.05, 500, 100
TOLERANCE = 0.01  # relative, of the perplexities: float32 rounding, amplified by training


class Text(NamedTuple):
    """Contexts `(n, WORDS_BEFORE)` and the words that follow `(n,)`, by index into the vocabulary."""

    vocabulary: list[str]
    train: tuple[NDArray[np.int64], NDArray[np.int64]]
    held_out: tuple[NDArray[np.int64], NDArray[np.int64]]


class Run(NamedTuple):
    """Perplexity of the held-out text before, during and after training; median seconds of the parts of a step."""

    perplexities: list[float]
    loss_seconds: float
    rest_seconds: float


def load() -> Text:
    """Split the topics, one in ten held out, and turn words into indices."""
    words = [re.findall(r"[A-Za-z_]+|[0-9]+|[^\sA-Za-z0-9_]", topics[name]) for name in sorted(topics)]
    held_out = np.random.default_rng(0).random(len(words)) < 0.1
    counts = Counter(word for text, out in zip(words, held_out, strict=True) if not out for word in text)
    vocabulary = ["<unk>", *sorted(word for word, count in counts.items() if count >= RARE)]
    index = {word: i for i, word in enumerate(vocabulary)}

    def examples(chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        texts = [
            np.array([0] * WORDS_BEFORE + [index.get(word, 0) for word in words[i]], np.int64)
            for i in np.flatnonzero(chosen)
        ]
        windows = [np.lib.stride_tricks.sliding_window_view(text, WORDS_BEFORE + 1) for text in texts]
        joined = np.concatenate(windows)
        return np.ascontiguousarray(joined[:, :-1]), np.ascontiguousarray(joined[:, -1])

    return Text(vocabulary, examples(~held_out), examples(held_out))


class Model:
    """Embedding, one hidden layer, logits; trained with Adagrad, all in NumPy but the loss."""

    def __init__(self, n_words: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def normal(scale: float, *shape: int) -> Array:
            return scale * rng.standard_normal(shape, dtype=np.float32)

        n_inputs = WORDS_BEFORE * EMBEDDED
        self.embedding = normal(0.1, n_words, EMBEDDED)
        self.hidden = normal(n_inputs**-0.5, n_inputs, HIDDEN)
        self.out = normal(HIDDEN**-0.5, HIDDEN, n_words)
        self.bias = np.zeros(n_words, np.float32)
        self.squares = [np.full_like(parameter, 1e-6) for parameter in self.parameters()]

    def parameters(self) -> list[Array]:
        """Give the trained arrays."""
        return [self.embedding, self.hidden, self.out, self.bias]

    def forward(self, contexts: NDArray[np.int64], logits: Array) -> tuple[Array, Array]:
        """Fill the logits `(n, n_words)`; give the embedded words and the hidden layer."""
        embedded = self.embedding[contexts].reshape(len(contexts), -1)
        hidden = np.tanh(embedded @ self.hidden)
        np.matmul(hidden, self.out, out=logits)
        logits += self.bias
        return embedded, hidden

    def backward(self, contexts: NDArray[np.int64], embedded: Array, hidden: Array, dlogits: Array) -> None:
        """Take one step of Adagrad, from the gradient with respect to the logits."""
        dhidden = (dlogits @ self.out.T) * (1 - hidden**2)
        dembedding = np.zeros_like(self.embedding)
        np.add.at(dembedding, contexts, (dhidden @ self.hidden.T).reshape(*contexts.shape, EMBEDDED))
        gradients = [dembedding, embedded.T @ dhidden, hidden.T @ dlogits, dlogits.sum(axis=0)]
        for parameter, square, gradient in zip(self.parameters(), self.squares, gradients, strict=True):
            square += gradient**2
            parameter -= RATE * gradient / np.sqrt(square)


def fastce_loss(logits: Array, targets: NDArray[np.int64]) -> float:
    """One call."""
    return float(fastce.cross_entropy(logits, targets))


def fastce_step(logits: Array, targets: NDArray[np.int64]) -> float:
    """One call, in place."""
    return float(fastce.cross_entropy_with_grad(logits, targets, grad_out=logits).loss)


def numpy_loss(logits: Array, targets: NDArray[np.int64]) -> float:
    """The baseline."""
    return float(baseline.loss(logits, targets, logits))


def numpy_step(logits: Array, targets: NDArray[np.int64]) -> float:
    """The baseline, in place."""
    return float(baseline.loss_and_grad(logits, targets, logits)[0])


def perplexity(model: Model, examples: tuple[NDArray[np.int64], NDArray[np.int64]], loss: Loss) -> float:
    """`exp` of the mean loss; the logits are computed a batch at a time."""
    contexts, targets = examples
    logits = np.empty((BATCH, len(model.bias)), np.float32)
    total = 0.0
    for start in range(0, len(targets), BATCH):
        y = targets[start : start + BATCH]
        model.forward(contexts[start : start + BATCH], logits[: len(y)])
        total += len(y) * loss(logits[: len(y)], y)
    return float(np.exp(total / len(targets)))


def train(text: Text, step: Step, loss: Loss, steps: int = STEPS) -> Run:
    """Train a new model; the start and the batches are the same for every `step`."""
    model = Model(len(text.vocabulary))
    rng = np.random.default_rng(1)
    contexts, targets = text.train
    logits = np.empty((BATCH, len(text.vocabulary)), np.float32)
    perplexities = [perplexity(model, text.held_out, loss)]
    loss_seconds, rest_seconds = [], []
    for i in range(1, steps + 1):
        start = time.perf_counter()
        batch = rng.integers(len(targets), size=BATCH)
        embedded, hidden = model.forward(contexts[batch], logits)
        before = time.perf_counter()
        step(logits, targets[batch])  # logits now hold the gradient
        after = time.perf_counter()
        model.backward(contexts[batch], embedded, hidden, logits)
        loss_seconds.append(after - before)
        rest_seconds.append(time.perf_counter() - start - loss_seconds[-1])
        if i % EVERY == 0 or i == steps:
            perplexities.append(perplexity(model, text.held_out, loss))
            print(f"  step {i:4}: perplexity {perplexities[-1]:.2f}", flush=True)
    return Run(perplexities, statistics.median(loss_seconds), statistics.median(rest_seconds))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with both, print perplexities and times; raise AssertionError if they differ or do not fall."""
    parser = argparse.ArgumentParser(prog="python -m fastce.bench.train_words", description=main.__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args(arguments).steps
    # GNU OpenMP's threads, which compute for fastce, go on spinning for milliseconds, on the cores that the matrix
    # products of the rest of the step need: 7.9 ms in place of 4.4 on two cores. Read before the first call.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    text = load()
    n_words, n_train, n_held_out = len(text.vocabulary), len(text.train[1]), len(text.held_out[1])
    print(f"{n_train:,} words to train, {n_held_out:,} held out, vocabulary of {n_words:,}; {steps} steps of {BATCH}")
    warm = np.zeros((BATCH, n_words), np.float32)  # compile outside the times
    fastce_loss(warm, text.train[1][:BATCH])
    fastce_step(warm, text.train[1][:BATCH])
    runs = {}
    for name, step, loss in (("fastce", fastce_step, fastce_loss), ("NumPy baseline", numpy_step, numpy_loss)):
        print(name)
        runs[name] = train(text, step, loss, steps)
    print()
    for name, run in runs.items():
        falls = " -> ".join(f"{p:.2f}" for p in run.perplexities)
        print(f"{name:<15} held-out perplexity {falls}")
        print(
            f"{'':<15} a step: loss and gradient {run.loss_seconds * 1e3:.2f} ms, the rest {run.rest_seconds * 1e3:.2f}"
        )
    fast, plain = runs.values()
    np.testing.assert_allclose(fast.perplexities, plain.perplexities, rtol=TOLERANCE, err_msg="perplexities")
    if not fast.perplexities[-1] < fast.perplexities[0] / 2:
        raise AssertionError(f"perplexity does not fall: {fast.perplexities}")
    print(f"The perplexities agree within {TOLERANCE:.0%}. ", end="")
    print(f"Loss and gradient: {plain.loss_seconds / fast.loss_seconds:.1f} times as fast as NumPy.")


if __name__ == "__main__":
    main()
