"""Cross-entropy and its gradient in one pass over the logits."""

from .api import (
    CrossEntropyResult,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_with_grad,
    log_softmax,
    logsumexp,
    nll_loss,
    softmax,
)
from .warmup import warmup

__version__ = "0.1.0"

__all__ = [
    "CrossEntropyResult",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_with_grad",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "softmax",
    "warmup",
]
