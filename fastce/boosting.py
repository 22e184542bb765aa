"""Multi-class objectives for XGBoost and LightGBM: gradient and Hessian of their softmax loss in one pass.

Both let a function stand for their own objective. What `objective` gives is that function, for their native interfaces
and those in scikit-learn's manner; each library's own scale of the Hessian is kept, so that the trees are those of
`multi:softprob` and `multiclass`, up to rounding. Neither library is imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import memory
from .api import cross_entropy_with_grad
from .kernels.task import Array

_SMALLEST_HESSIAN = 1e-16  # XGBoost's: where p is next to 0 or 1, and in rows without weight
_SMALLEST_SHARE = float(np.float32(1e-15))  # LightGBM's, of a class
_ADDED_TO_SHARE = 1e-6  # XGBoost's
_NO_LABEL = np.iinfo(np.int64).max  # no float is this number: no row is ignored


def _of_xgboost(grad: Array, hess: Array) -> tuple[Array, Array]:
    """`multi:softprob` takes twice the Hessian, and of that no less than a bound."""
    hess *= 2
    return grad, np.maximum(hess, _SMALLEST_HESSIAN, out=hess)


def _of_lightgbm(grad: Array, hess: Array) -> tuple[Array, Array]:
    """`multiclass` takes K / (K - 1) times the Hessian; both as float32, which LightGBM would make of them."""
    n_classes, float32 = hess.shape[1], np.dtype(np.float32)
    rounded, scaled = memory.empty_pair_of(grad, float32), memory.empty_pair_of(hess, float32)
    rounded[...] = grad
    np.multiply(hess, n_classes / (n_classes - 1), out=scaled, casting="same_kind")
    return rounded, scaled


_LIBRARIES = {"xgboost": _of_xgboost, "lightgbm": _of_lightgbm}


class Objective:
    """What `objective` gives; it can be copied and pickled, as estimators of scikit-learn are.

    Attributes
    ----------
    library : str
        "xgboost" or "lightgbm".
    weight : array or None
        Weight of each class.
    label_smoothing : float
        The share of the target that is spread evenly over the classes.
    """

    def __init__(self, library: str, weight: ArrayLike | None, label_smoothing: float) -> None:
        self.library, self.weight, self.label_smoothing = library, weight, label_smoothing

    def __repr__(self) -> str:
        return f"objective({self.library!r}, weight={self.weight!r}, label_smoothing={self.label_smoothing!r})"

    # Both libraries look at the names and the number of the arguments: XGBoost passes a `sample_weight` by that name,
    # LightGBM the weights to whoever takes three.
    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Give gradient and Hessian, called in any of the four ways.

        Parameters
        ----------
        first, second
            Scores (N, K) and the training data, a `xgboost.DMatrix` or `lightgbm.Dataset`; or, in scikit-learn's
            manner, labels (N,) and scores.
        sample_weight : array of shape (N,), optional
            With labels and scores. Training data brings its own.

        Returns
        -------
        tuple of two arrays (N, K)
            Laid out in memory as the scores are: of their type, or for LightGBM float32.
        """
        if hasattr(second, "get_label"):
            labels, scores, sample_weight = second.get_label(), first, second.get_weight()
        else:
            labels, scores = first, second
        scores = _scores(scores)
        if sample_weight is not None and len(sample_weight) == 0:  # XGBoost's way to say that there are none
            sample_weight = None
        result = cross_entropy_with_grad(
            scores,
            _classes(labels, scores.shape[1]),
            weight=self.weight,
            sample_weight=sample_weight,
            ignore_index=_NO_LABEL,
            label_smoothing=self.label_smoothing,
            reduction="sum",
            aux=("hess",),
            grad_out=memory.empty_pair_of(scores, scores.dtype),
        )
        assert result.hess is not None
        return _LIBRARIES[self.library](result.grad, result.hess)


def objective(library: str, *, weight: ArrayLike | None = None, label_smoothing: float = 0.0) -> Objective:
    """Objective for training with several classes: the softmax loss of `cross_entropy`, summed over the rows.

    Parameters
    ----------
    library : {"xgboost", "lightgbm"}
        Whose scale of the Hessian to keep: XGBoost's `multi:softprob` takes `max(2 * p * (1 - p) * w, 1e-16)` and
        LightGBM's `multiclass` `K / (K - 1) * p * (1 - p) * w`, with the `w` of a row.
    weight : array of shape (K,), optional
        Weight of each class, by which rows are weighed in addition to the training data's own weights.
    label_smoothing : float
        In [0, 1]: the share of the target that is spread evenly over the classes.

    Returns
    -------
    Objective
        A function for `xgboost.train(obj=...)`, `xgboost.XGBClassifier(objective=...)`,
        `lightgbm.train({"objective": ...})` and `lightgbm.LGBMClassifier(objective=...)`.

    Raises
    ------
    ValueError
        Another library. When called: labels that are not whole numbers in [0, K), scores without an axis of classes,
        and what `cross_entropy_with_grad` raises.

    Notes
    -----
    What else an objective's name decides stays with the caller:

    - XGBoost needs `num_class`, and makes probabilities of the scores where the `objective` in the parameters says so:
      `xgboost.train({"objective": "multi:softprob", "num_class": K}, data, obj=objective("xgboost"))`. XGBClassifier
      does both, for three classes or more.
    - LightGBM needs `num_class` in the parameters of its native interface. Its models give scores, of which
      `fastce.softmax` makes probabilities.
    - Both start from other scores: see `initial_scores`.

    The formulas are those of XGBoost 3.2 (`src/objective/multiclass_obj.cu`) and LightGBM 4.7
    (`src/objective/multiclass_objective.hpp`).

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.boosting import objective
    >>> scores = np.zeros((2, 4), np.float32)
    >>> grad, hess = objective("xgboost")(np.array([0.0, 2.0]), scores)
    >>> print(grad)
    [[-0.75  0.25  0.25  0.25]
     [ 0.25  0.25 -0.75  0.25]]
    >>> print(hess[0])
    [0.375 0.375 0.375 0.375]
    """
    _check_library(library)
    return Objective(library, weight, label_smoothing)


def initial_scores(library: str, labels: ArrayLike, n_classes: int, sample_weight: ArrayLike | None = None) -> Array:
    """Where the library's own objective starts from: logarithms of the shares of the classes.

    With an objective that is a function, both libraries start from the same score for all classes. To start from here,
    pass it to XGBoost (3.1 or newer; before, `multi:softprob` knew nothing of shares) as the parameter `base_score`, a
    list. LightGBM takes it as the `init_score` of every row of the data to train with, and does not add it to the
    scores that a model gives; `numpy.tile(scores, (n_rows, 1))` repeats it.

    Parameters
    ----------
    library : {"xgboost", "lightgbm"}
        `log(share + 1e-6)`, less the mean of that over the classes, or `log(max(share, 1e-15))`.
    labels : array of shape (N,)
        Classes in [0, K), of an integer or float type.
    n_classes : int
        K.
    sample_weight : array of shape (N,), optional
        Weight of each row.

    Returns
    -------
    array of shape (K,)
        float64.

    Raises
    ------
    ValueError
        Another library, or labels that are not whole numbers in [0, K).

    Examples
    --------
    >>> from fastce.boosting import initial_scores
    >>> print(initial_scores("lightgbm", [0, 1, 1, 1], 2).round(4))
    [-1.3863 -0.2877]
    """
    _check_library(library)
    share = np.bincount(_classes(labels, n_classes), sample_weight, n_classes)
    share = share / share.sum()
    scores: Array
    if library == "lightgbm":
        scores = np.log(np.maximum(share, _SMALLEST_SHARE))
    else:
        scores = np.log(share + _ADDED_TO_SHARE)
        scores -= scores.mean()
    return scores


def _check_library(library: str) -> None:
    if library not in _LIBRARIES:
        raise ValueError(f"library must be one of {', '.join(map(repr, _LIBRARIES))}, not {library!r}")


def _scores(scores: Any) -> Array:
    array = np.asarray(scores)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(
            f"scores must have shape (rows, classes), with at least two classes, not {array.shape}: this is an "
            "objective for several classes, whose number is a parameter of the training, num_class"
        )
    return array


def _classes(labels: Any, n_classes: int) -> Array:
    """Labels, which both libraries keep as float32, as integers."""
    given = np.asarray(labels)
    with np.errstate(invalid="ignore"):
        classes = given.astype(np.int64)
    bad = (classes != given) | (classes < 0) | (classes >= n_classes)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"labels must be whole numbers in [0, {n_classes}), but labels[{row}] is {given[row]}")
    return classes
