"""The public functions: arguments to a problem, its task to a kernel, row losses to the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from numpy import moveaxis, ndarray
from numpy.typing import ArrayLike

from . import dispatch
from .kernels import reference
from .kernels.task import Array
from .plain import of_logits, of_targets
from .problem import AUX, NllOptions, Options, Shape, checked, cross_entropy_problem, nll_problem, rows_problem
from .reduction import Scalar, reduce_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Function = TypeVar("_Function", bound=Callable[..., Any])

_new: Any = tuple.__new__  # a NamedTuple in a third of the time


def _with_options_of(problem: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Let help() and editors see, in place of `**options`, the options of `problem` and their defaults."""
    options = [p for p in inspect.signature(problem).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = signature.replace(parameters=sorted([*own, *options], key=lambda p: p.kind))
        function.__signature__ = shown  # type: ignore[attr-defined]
        return function

    return decorate


class CrossEntropyResult(NamedTuple):
    """What `cross_entropy_with_grad` gives; None stands for what was not asked for in `aux`.

    Attributes
    ----------
    loss : scalar or array
        Scalar, or with `reduction="none"` an array of the shape of the targets, of the arithmetic type.
    grad : array
        Gradient of the loss with respect to the logits, of their shape and type.
    lse : array
        `logsumexp` of the scaled and capped logits. This and the following have one number for each row, in the shape
        of the targets, and 0 or False for an ignored row where nothing else is said.
    argmax : array
        The largest class, the first of equals; -1 for an ignored row. int64.
    correct : array
        `argmax == targets`. bool.
    rank : array
        How many classes score above the target. int64.
    target_prob : array
        Probability of the target class.
    entropy : array
        Entropy of the predicted distribution, in nats.
    hess : array
        Second derivative of the loss with respect to each logit, the diagonal of its Hessian: in the shape of the
        logits, of the arithmetic type, and scaled as the gradient is.
    """

    loss: Array | Scalar
    grad: Array
    lse: Array | Scalar | None = None
    argmax: Array | Scalar | None = None
    correct: Array | Scalar | None = None
    rank: Array | Scalar | None = None
    target_prob: Array | Scalar | None = None
    entropy: Array | Scalar | None = None
    hess: Array | None = None


@_with_options_of(cross_entropy_problem)
def cross_entropy(
    logits: ArrayLike, targets: ArrayLike, *, out: Array | None = None, **options: Unpack[Options]
) -> Array | Scalar:
    """Cross-entropy loss: the mean of `logsumexp(logits) - logits[target]` over the rows.

    With all options, for a row `x` of `C` logits, its target probabilities `q` (1 at a target class, 0 elsewhere), its
    sample weight `s` and class weights `w`::

        z   = softcap * tanh(logit_scale * x / softcap)          # logit_scale * x without softcap
        L   = log(sum(exp(z)))
        q'  = (1 - label_smoothing) * q + label_smoothing / C
        row = s * (sum(w * q' * (L - z)) + z_loss * L**2)        # 0 * inf counts as 0

    Arrays on a GPU, of CuPy or any that DLPack or `__cuda_array_interface__` describe, give CuPy arrays there. All
    arrays must lie on the same device, NumPy arrays and lists beside them are an error; numbers may be Python's. The
    work is put on CuPy's current stream, without waiting for it.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Any number of dimensions, any strides; the classes lie on `axis`. Read only.
    targets : array of integers, or of floats
        Integers or bool: classes in [0, C), in the shape of the logits without `axis`. Floats: probabilities, in the
        shape of the logits.
    weight : array of shape (C,), optional
        Weight of each class.
    sample_weight : array, optional
        Weight of each row, in the shape of the logits without `axis`.
    ignore_index : int
        Rows with this target count for nothing, whatever they hold: loss and gradient are 0.
    label_smoothing : float
        In [0, 1]: the share of the target that is spread evenly over the classes.
    z_loss : float
        Factor of the penalty `L**2`, which keeps the logits from drifting. Class weights do not apply to it.
    softcap : float, optional
        Bound of the logits, greater than 0.
    logit_scale : float
        Factor of the logits, an inverse temperature.
    reduction : {"mean", "sum", "none"}
        "mean" divides the sum of the rows by the sum, over the rows not ignored, of `sample_weight * weight[target]`;
        their z-loss part, and with probability targets everything, by the sum of `sample_weight`. "none" gives the loss
        of each row.
    normalizer : float, optional
        Divides losses and gradients in place of what `reduction` divides by, for example by the number of tokens in all
        steps of a gradient accumulation. Greater than 0.
    empty : {"nan", "zero"}
        The mean of no row, or of rows whose weights sum to 0.
    axis : int
        Where the classes lie.
    backend : {None, "cpu", "cuda", "reference"}
        Who computes; None chooses. "reference" is plain NumPy, slow and easy to read.
    check : bool, optional
        Whether to look for targets that are no class where that costs time, on a GPU: it waits for the device. Without
        it, the rows of such targets have a loss, a gradient and a target_prob of NaN, are not correct and have rank 0.
        On the CPU it is always done.
    out : array, optional
        Where to write the loss: a 0-d array or, with `reduction="none"`, one in the shape of the logits without `axis`.
        Its type is float64 for float64 logits, else float32. It is also returned.

    Returns
    -------
    scalar or array
        The loss, float64 for float64 logits, else float32: a NumPy scalar or, with `reduction="none"`, an array in the
        shape of the logits without `axis`.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`.
    TypeError
        An argument is of a type that is not supported.
    ValueError
        Shapes do not fit together, there are no classes, an option is out of its range, or an output is of the wrong
        shape or type, read-only, or shares memory with another argument.

    Notes
    -----
    Nothing is written before all arguments are checked. NaN or +inf in a row, or -inf alone, make that row's loss and
    gradient NaN. A class at -inf has probability 0, and a target there a loss of inf.

    The formula of the mean is that of `torch.nn.functional.cross_entropy`; the z-loss is from ST-MoE (Zoph et al.,
    arXiv:2202.08906), the softcap from Gemma 2 (arXiv:2408.00118).

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[-1.0, -3.0, 4.0], [-3.0, 3.0, -1.0]])
    >>> print(fastce.cross_entropy(logits, np.array([0, 1])).round(4))
    2.5141
    >>> print(fastce.cross_entropy(logits, np.array([0, 1]), reduction="none").round(4))
    [5.0076 0.0206]
    """
    if out is None:
        at_once = of_targets(logits, targets, None, False, (), None, options)
        if at_once:
            loss: Array | Scalar = at_once[0]
            return loss
    if type(logits) is not ndarray and dispatch.on_gpu(logits):
        on_gpu = dispatch.gpu().cross_entropy(
            logits, targets, None, True, False, None, None, (), out, **checked(options)
        )
        loss = on_gpu.loss
        return loss
    task, kernels, rows, losses, _, reduction, divisor, empty = cross_entropy_problem(
        logits, targets, None, True, False, None, None, (), out, **checked(options)
    )
    total = kernels.cross_entropy(task) if losses.size else 0.0
    return _in_shape(reduce_rows(total, losses, reduction, divisor, empty), rows, out)


@_with_options_of(cross_entropy_problem)
def cross_entropy_with_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    out: Array | None = None,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
    aux: Collection[str] = (),
    **options: Unpack[Options],
) -> CrossEntropyResult:
    """Cross-entropy loss and its gradient `(softmax(logits) - onehot(targets)) / n_rows`, in one pass over the logits.

    Parameters
    ----------
    logits, targets, out, **options
        As in `cross_entropy`, where the loss is defined.
    grad_output : float or array, optional
        Upstream gradient, by which the gradient is multiplied: a scalar or, with `reduction="none"`, also an array in
        the shape of the logits without `axis`.
    grad_out : array, optional
        Where to write the gradient, of the shape and type of the logits. `grad_out=logits` overwrites the logits.
    aux : tuple of str
        What else to find on the way: any of "lse", "argmax", "correct", "rank", "target_prob", "entropy" and "hess", as
        `CrossEntropyResult` explains them. "correct", "rank" and "target_prob" need class targets, and "hess" NumPy
        arrays.

    Returns
    -------
    CrossEntropyResult
        Named tuple of loss, gradient, and what `aux` asked for.

    Raises
    ------
    IndexError, TypeError, ValueError
        As in `cross_entropy`. `grad_out` may share memory with the logits only by being the same array, whole.

    Notes
    -----
    Arithmetic is done in float32 or, for float64 logits, in float64; the gradient is rounded once to its type. It is 0
    for a mean over no row.

    The second derivative "hess" is `p * (1 - p)` with the weights of the row in front: with `p = exp(z - L)`, the
    upstream gradient `g` (for a mean over its denominator) and the rest as in `cross_entropy`::

        dz      = p * sum(w * q') - w * q' + 2 * z_loss * L * p
        d2z     = p * (1 - p) * (sum(w * q') + 2 * z_loss * L) + 2 * z_loss * p**2
        dz_dx   = logit_scale * (1 - (z / softcap)**2)            # without softcap, logit_scale
        d2z_dx2 = -2 * logit_scale * z / softcap**2 * dz_dx       # without softcap, 0; with it, hess may be negative
        hess    = g * s * (d2z * dz_dx**2 + dz * d2z_dx2)

    It is as exact as the gradient: where `p` is next to 1, `1 - p` is the sum of the others. Boosting takes it for its
    Newton steps.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
    >>> result = fastce.cross_entropy_with_grad(
    ...     logits, np.array([0, 2]), weight=[0.5, 1.0, 2.0], label_smoothing=0.3, aux=("correct",)
    ... )
    >>> print(result.loss.round(4))
    2.593
    >>> print(result.grad.round(4))
    [[-0.1348  0.0285  0.1063]
     [ 0.5707  0.0399 -0.6106]]
    >>> print(result.correct)
    [False False]
    """
    result: CrossEntropyResult
    if out is None and (grad_output is None or type(grad_output) is float) and type(aux) is tuple:
        at_once = of_targets(logits, targets, grad_out, True, aux, grad_output, options)
        if at_once:
            result = _new(CrossEntropyResult, at_once)
            return result
    if type(logits) is not ndarray and dispatch.on_gpu(logits):
        on_gpu = dispatch.gpu().cross_entropy(
            logits, targets, None, True, True, grad_output, grad_out, aux, out, **checked(options)
        )
        return CrossEntropyResult(on_gpu.loss, on_gpu.grad, **on_gpu.aux)
    task, kernels, rows, losses, grad, reduction, divisor, empty = cross_entropy_problem(
        logits, targets, None, True, True, grad_output, grad_out, aux, out, **checked(options)
    )
    total = kernels.cross_entropy(task) if losses.size else 0.0
    loss = reduce_rows(total, losses, reduction, divisor, empty)
    if out is not None or reduction == "none":
        loss = _in_shape(loss, rows, out)
    if aux:
        found = {name: _in_shape(a, rows, None) for name in AUX if (a := getattr(task, name)) is not None}
        hess = None if task.hess is None else moveaxis(task.hess, -1, options.get("axis", -1))
        return CrossEntropyResult(loss, grad, **found, hess=hess)
    result = _new(CrossEntropyResult, (loss, grad, None, None, None, None, None, None, None))
    return result


@_with_options_of(cross_entropy_problem)
def cross_entropy_backward(
    logits: ArrayLike,
    targets: ArrayLike,
    lse: ArrayLike,
    *,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
    **options: Unpack[Options],
) -> Array:
    """Gradient of the cross-entropy from a logsumexp found earlier: `(exp(logits - lse) - onehot(targets)) / n_rows`.

    For frameworks that compute the loss first and learn the upstream gradient later. Where both are wanted at once,
    `cross_entropy_with_grad` takes one pass in place of two.

    Parameters
    ----------
    logits, targets, **options
        As in `cross_entropy`.
    lse : array
        `logsumexp` of the scaled and capped logits, in the shape of the logits without `axis`; as
        `cross_entropy_with_grad` gives it with `aux=("lse",)`.
    grad_output, grad_out
        As in `cross_entropy_with_grad`.

    Returns
    -------
    array
        The gradient, of the shape and type of the logits; `grad_out` where it is given.

    Raises
    ------
    IndexError, TypeError, ValueError
        As in `cross_entropy_with_grad`.

    Notes
    -----
    The gradient is that of `cross_entropy_with_grad`, up to the rounding of `lse`. An `lse` over more classes than the
    logits have gives these classes' part of the gradient over all of them, where label smoothing spreads over the
    classes given: for a vocabulary that is divided among processes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[1.0, 2.0, 3.0]])
    >>> print(fastce.cross_entropy_backward(logits, np.array([2]), fastce.logsumexp(logits)).round(4))
    [[ 0.09    0.2447 -0.3348]]
    """
    if lse is not None and (grad_output is None or type(grad_output) is float):
        at_once = of_targets(logits, targets, grad_out, True, (), grad_output, options, lse)
        if at_once:
            gradient: Array = at_once[1]
            return gradient
    if type(logits) is not ndarray and dispatch.on_gpu(logits):
        on_gpu = dispatch.gpu().cross_entropy(
            logits, targets, lse, False, True, grad_output, grad_out, (), None, **checked(options)
        )
        gradient = on_gpu.grad
        return gradient
    task, kernels, _, _, grad, _, _, _ = cross_entropy_problem(
        logits, targets, lse, False, True, grad_output, grad_out, (), None, **checked(options)
    )
    if task.logits.size:
        kernels.cross_entropy(task)
    gradient = grad
    return gradient


def logsumexp(
    logits: ArrayLike, *, axis: int = -1, out: Array | None = None, backend: str | None = None
) -> Array | Scalar:
    """Logarithm of the sum of exponentials: `log(exp(logits).sum(axis))`, without overflow.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Any number of dimensions, any strides; the classes lie on `axis`.
    axis : int
        Where the classes lie.
    out : array, optional
        Where to write the result, of the result's shape and type.
    backend : {None, "cpu", "cuda", "reference"}
        Who computes; None chooses.

    Returns
    -------
    array or scalar
        In the shape of the logits without `axis`; float64 for float64 logits, else float32.

    Raises
    ------
    TypeError, ValueError
        As in `cross_entropy`.

    Notes
    -----
    The function is that of `scipy.special.logsumexp`, special values included: inf where a row holds +inf, -inf where
    it holds nothing but -inf.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]])).round(4))
    [1000.6931    0.    ]
    """
    if backend is None and type(axis) is int and (axis == -1 or axis == 1):  # (plain logits have two axes)
        at_once = of_logits("logsumexp", logits, out)
        if at_once is not None:
            return at_once
    if type(logits) is not ndarray and dispatch.on_gpu(logits):
        on_gpu: Array = dispatch.gpu().of_logits("logsumexp", logits, axis, out, backend)
        return on_gpu
    x, fill, kernels, rows, _ = rows_problem(logits, axis, out, backend, one_each=True)
    if x.size:
        kernels.logsumexp(x, fill)
    return _in_shape(fill, rows, out)


def softmax(logits: ArrayLike, *, axis: int = -1, out: Array | None = None, backend: str | None = None) -> Array:
    """Softmax: `exp(logits) / exp(logits).sum(axis, keepdims=True)`, without overflow.

    Parameters
    ----------
    logits, axis, backend
        As in `logsumexp`.
    out : array, optional
        Where to write the result. `out=logits` overwrites the logits.

    Returns
    -------
    array
        Probabilities, of the shape and type of the logits.

    Raises
    ------
    TypeError, ValueError
        As in `cross_entropy`.

    Notes
    -----
    The function is that of `scipy.special.softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.softmax(np.array([[-9.0, 5.0, 10.0]])).round(4))
    [[0.     0.0067 0.9933]]
    """
    if backend is None and type(axis) is int and (axis == -1 or axis == 1):  # (plain logits have two axes)
        at_once = of_logits("softmax", logits, out)
        if at_once is not None:
            return at_once
    if type(logits) is not ndarray and dispatch.on_gpu(logits):
        on_gpu: Array = dispatch.gpu().of_logits("softmax", logits, axis, out, backend)
        return on_gpu
    x, fill, kernels, _, result = rows_problem(logits, axis, out, backend, one_each=False)
    if x.size:
        kernels.softmax(x, fill)
    return result


def log_softmax(logits: ArrayLike, *, axis: int = -1, out: Array | None = None, backend: str | None = None) -> Array:
    """Logarithm of the softmax: `logits - logsumexp(logits)`, accurate also near 0.

    Parameters
    ----------
    logits, axis, backend
        As in `logsumexp`.
    out : array, optional
        Where to write the result. `out=logits` overwrites the logits.

    Returns
    -------
    array
        Logarithms of probabilities, of the shape and type of the logits.

    Raises
    ------
    TypeError, ValueError
        As in `cross_entropy`.

    Notes
    -----
    The function is that of `scipy.special.log_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.log_softmax(np.array([[20.0, 0.0]], np.float32)))
    [[-2.0611537e-09 -2.0000000e+01]]
    """
    if backend is None and type(axis) is int and (axis == -1 or axis == 1):  # (plain logits have two axes)
        at_once = of_logits("log_softmax", logits, out)
        if at_once is not None:
            return at_once
    if type(logits) is not ndarray and dispatch.on_gpu(logits):
        on_gpu: Array = dispatch.gpu().of_logits("log_softmax", logits, axis, out, backend)
        return on_gpu
    x, fill, kernels, _, result = rows_problem(logits, axis, out, backend, one_each=False)
    if x.size:
        kernels.log_softmax(x, fill)
    return result


@_with_options_of(nll_problem)
def nll_loss(
    log_probs: ArrayLike, targets: ArrayLike, *, out: Array | None = None, **options: Unpack[NllOptions]
) -> Array | Scalar:
    """Negative log-likelihood: the mean of `-log_probs[target]` over the rows.

    `cross_entropy(logits, targets) == nll_loss(log_softmax(logits), targets)`, in two passes more.

    Parameters
    ----------
    log_probs : array of float16, bfloat16, float32 or float64
        Logarithms of probabilities; the classes lie on `axis`.
    targets : array of integers
        Classes in [0, C), in the shape of `log_probs` without `axis`.
    weight, sample_weight, ignore_index, reduction, normalizer, empty, axis, out
        As in `cross_entropy`.

    Returns
    -------
    scalar or array
        As in `cross_entropy`.

    Raises
    ------
    IndexError, TypeError, ValueError
        As in `cross_entropy`.

    Notes
    -----
    The function is that of `torch.nn.functional.nll_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> log_probs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    >>> print(fastce.nll_loss(log_probs, np.array([0, 1]), reduction="none").round(4))
    [0.6931 0.2231]
    """
    if type(log_probs) is not ndarray and dispatch.on_gpu(log_probs):
        on_gpu: Array = dispatch.gpu().nll_loss(log_probs, targets, out, **checked(options))
        return on_gpu
    problem = nll_problem(log_probs, targets, out, **checked(options))
    losses = problem.losses
    if losses.size:
        reference.nll_loss(
            problem.log_probs, problem.targets, problem.ignore_index, problem.weight, problem.sample_weight, losses
        )
    loss = reduce_rows(reference.sum_rows(losses), losses, problem.reduction, problem.divisor, problem.empty)
    return _in_shape(loss, problem.rows, out)


def _in_shape(values: Any, rows: Shape, out: Array | None) -> Array | Scalar:
    """Give a scalar, or one number for each row in the shape of the targets; in `out` where it is given."""
    if out is not None:
        out[...] = values.reshape(out.shape)
        return out
    shaped: Array | Scalar = values if values.ndim == 0 or len(rows) == 1 else values.reshape(rows)[()]
    return shaped
