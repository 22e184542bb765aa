"""PyTorch's cross-entropy by the kernels of fastce: change the import, and nothing else.

    from fastce.torch import cross_entropy     # in place of torch.nn.functional.cross_entropy
    from fastce.torch import CrossEntropyLoss  # in place of torch.nn.CrossEntropyLoss

What the kernels take as it is goes to them (`loss.py` -> `fused.py` -> `solve.py`). All else, every error of PyTorch's
among it, is left to PyTorch's own operations (`composed.py`): types that it promotes, gradients of weights, second
derivatives, forward mode, `vmap`. Where PyTorch traces, it sees one operator (`operator.py`).
"""

from . import pools
from .loss import CrossEntropyLoss, cross_entropy
from .options import CrossEntropyOutput

pools.let_idle_threads_sleep()

__all__ = ["CrossEntropyLoss", "CrossEntropyOutput", "cross_entropy"]
