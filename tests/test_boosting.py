"""Objectives for XGBoost and LightGBM: with them, their models are those of their own objectives."""

import copy
import pickle

import numpy as np
import pytest
from conftest import run_python

import fastce
from fastce.boosting import initial_scores, objective

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
train_boosting = pytest.importorskip("fastce.bench.train_boosting")

LIBRARIES = {library.name: library for library in train_boosting.LIBRARIES}
EVERY_LIBRARY = pytest.mark.parametrize("library", LIBRARIES)
HESS_SCALE = {"xgboost": 2.0, "lightgbm": 6 / 5}
ROUNDS = 5
ONE_THREAD = {"nthread": 1}  # beside other processes, theirs wait for each other


class Data:
    """What a DMatrix or Dataset is asked for."""

    def __init__(self, labels, weight=None):
        self.labels, self.weight = labels, weight

    def get_label(self):
        return self.labels

    def get_weight(self):
        return self.weight


@pytest.fixture
def case(rng):
    """Scores (N, 6), labels as the libraries keep them, sample weights."""
    scores, labels = rng.normal(size=(101, 6)) * 2, rng.integers(0, 6, 101).astype(np.float32)
    return scores, labels, rng.uniform(0.5, 2, 101).astype(np.float32)


def written_out(scores, labels, sample_weight=1.0, weight=1.0, smoothing=0.0):
    """Gradient, and Hessian without a library's factor, by the formulas."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    q = (1 - smoothing) * np.eye(p.shape[1])[labels.astype(int)] + smoothing / p.shape[1]
    q = weight * q
    total, s = q.sum(axis=1, keepdims=True), np.reshape(sample_weight, (-1, 1))
    return s * (p * total - q), s * total * p * (1 - p)


# Gradient and Hessian -------------------------------------------------------------------------------------------------


@EVERY_LIBRARY
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_and_hessian(rng, case, library, order, dtype, smoothing, weighted):
    scores, labels, s = case
    scores = np.asarray(scores, dtype, order)
    weight, s = (rng.uniform(0.5, 2, 6), s) if weighted else (None, None)
    before = scores.copy()
    function = objective(library, weight=weight, label_smoothing=smoothing)
    grad, hess = function(scores, Data(labels, s))
    weights = (1.0 if s is None else s, 1.0 if weight is None else weight)
    expected = written_out(scores.astype(float), labels, *weights, smoothing)
    np.testing.assert_allclose(grad, expected[0], rtol=1e-6, atol=5e-7)
    np.testing.assert_allclose(hess, HESS_SCALE[library] * expected[1], rtol=2e-6)
    for result in (grad, hess):
        assert result.dtype == (np.float32 if library == "lightgbm" else dtype)
        assert result.flags[f"{order}_CONTIGUOUS"]
    np.testing.assert_array_equal(scores, before)
    for called in (function(labels, scores, s), function(labels, scores, sample_weight=s)):
        np.testing.assert_array_equal(called, (grad, hess))


def test_no_hessian_of_xgboost_is_below_its_bound(case):
    scores, labels, s = case
    scores[0, 0], s[1] = 200, 0
    _, hess = objective("xgboost")(labels, scores.astype(np.float32), s)
    np.testing.assert_array_equal(hess[:2], np.full((2, 6), 1e-16, np.float32))
    assert (hess[2:] > 1e-16).all()


@EVERY_LIBRARY
def test_results_stay_as_they_are_while_they_are_looked_at(rng, library):
    """Their memory is used again, but not before."""
    labels = rng.integers(0, 20, 20_000).astype(np.float32)
    scores = rng.normal(size=(20_000, 20)).astype(np.float32)
    function = objective(library)
    first = function(labels, scores)
    kept = [a.copy() for a in first]
    function(labels, -scores)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("scores", [np.zeros(4), np.zeros((4, 1)), np.zeros((4, 1, 2))], ids=lambda a: str(a.shape))
def test_scores_of_one_class_or_two_as_one_number(scores):
    with pytest.raises(ValueError, match=r"scores must have shape \(rows, classes\).*num_class"):
        objective("xgboost")(np.zeros(4), scores)


@pytest.mark.parametrize(
    ("label", "message"), [(0.5, "0.5"), (np.nan, "nan"), (3, "3.0"), (-1, "-1.0"), (1e30, "1.0*")]
)
def test_labels_that_are_no_classes(label, message):
    labels = np.array([0, 1, label, 2], np.float32)
    with pytest.raises(ValueError, match=rf"whole numbers in \[0, 3\), but labels\[2\] is {message}"):
        objective("lightgbm")(labels, np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"labels\[2\]"):
        initial_scores("lightgbm", labels, 3)


def test_another_library_and_wrong_options():
    for function in (lambda name: objective(name), lambda name: initial_scores(name, [0], 2)):
        with pytest.raises(ValueError, match="library must be one of 'xgboost', 'lightgbm', not 'catboost'"):
            function("catboost")
    with pytest.raises(ValueError, match="label_smoothing"):
        objective("xgboost", label_smoothing=2)(np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"weight must have shape \(2,\)"):
        objective("xgboost", weight=[1, 2, 3])(np.zeros(3), np.zeros((3, 2)))


def test_copies_and_pickles(case):
    scores, labels, s = case
    function = objective("lightgbm", weight=[1, 2, 3, 4, 5, 6], label_smoothing=0.1)
    expected = function(labels, scores, s)
    for other in (copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        np.testing.assert_array_equal(other(labels, scores, s), expected)
        assert repr(other) == "objective('lightgbm', weight=[1, 2, 3, 4, 5, 6], label_smoothing=0.1)"


def test_neither_library_is_imported():
    run_python("import sys, fastce.boosting; assert not {'xgboost', 'lightgbm', 'sklearn'} & set(sys.modules)")


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return train_boosting.digits()


def train(library, table, obj):
    return LIBRARIES[library].train(table, obj, ROUNDS, **ONE_THREAD)


def assert_rounded(actual, expected):
    """The models are the same trees: what differs is the last digits of their leaves."""
    assert actual.shape == expected.shape
    assert train_boosting.differences(expected, actual).max() <= 2e-6


@EVERY_LIBRARY
def test_the_model_of_digits_is_that_of_the_library(table, library):
    assert_rounded(*(train(library, table, f) for f in (objective(library), None)))


@EVERY_LIBRARY
def test_the_model_of_twenty_classes_is_that_of_the_library(library):
    table = train_boosting.generated(4000)
    assert table.n_classes == 20
    own, other = (train(library, table, f) for f in (None, objective(library)))
    assert_rounded(other, own)
    train_boosting.agree(table, own, other)


@EVERY_LIBRARY
def test_formulas_in_numpy_give_the_same_model(table, library):
    """So that it is the library's own that is compared with, not the objective with itself."""
    assert_rounded(*(train(library, table, f) for f in (LIBRARIES[library].numpy, None)))


def weights_of(table):
    return np.random.default_rng(3).uniform(0.2, 3, len(table.train)).astype(np.float32)


def scores_of_xgboost(table, obj, weight, **settings):
    data = xgboost.DMatrix(table.train, table.labels, weight=weight)
    settings = {**train_boosting.xgboost_settings(table), **ONE_THREAD, **settings}
    booster = xgboost.train(settings, data, ROUNDS, obj=obj)
    return booster.predict(xgboost.DMatrix(table.test), output_margin=True)


def scores_of_lightgbm(table, obj, weight, **settings):
    data = lightgbm.Dataset(table.train, table.labels, weight=weight)
    settings = {**train_boosting.lightgbm_settings(table, obj), **ONE_THREAD, "boost_from_average": False, **settings}
    return lightgbm.train(settings, data, ROUNDS).predict(table.test, raw_score=True)


def test_sample_weights_of_the_data(table):
    weight = weights_of(table)
    own, other = (scores_of_xgboost(table, f, weight, base_score=0.5) for f in (None, objective("xgboost")))
    np.testing.assert_allclose(other, own, rtol=1e-4, atol=1e-5)
    own, other = (scores_of_lightgbm(table, f, weight) for f in (None, objective("lightgbm")))
    np.testing.assert_allclose(other, own, rtol=1e-4, atol=1e-5)


def test_class_weights_are_sample_weights_of_the_rows(table):
    weight = np.arange(2, 12) / 4  # exact in float32: between two splits as good as each other, a last digit decides
    of_rows = weight[table.labels].astype(np.float32)
    own = scores_of_xgboost(table, None, of_rows, base_score=0.5)
    other = scores_of_xgboost(table, objective("xgboost", weight=weight), None, base_score=0.5)
    np.testing.assert_allclose(other, own, rtol=1e-4, atol=1e-5)
    own = scores_of_lightgbm(table, None, of_rows)
    other = scores_of_lightgbm(table, objective("lightgbm", weight=weight), None)
    np.testing.assert_allclose(other, own, rtol=1e-4, atol=1e-5)


@EVERY_LIBRARY
def test_label_smoothing_keeps_a_model_from_being_sure(table, library):
    probabilities = [train(library, table, objective(library, label_smoothing=e)) for e in (0.0, 0.3)]
    plain, smoothed = (p.max(axis=1).mean() for p in probabilities)
    assert smoothed < plain - 0.05
    assert (probabilities[1].argmax(axis=1) == table.test_labels).mean() > 0.9


@pytest.mark.parametrize("weight", [None, "rows"])
def test_initial_scores_are_those_that_the_libraries_estimate(table, weight):
    weight = None if weight is None else weights_of(table)
    start = initial_scores("xgboost", table.labels, 10, weight)
    own = scores_of_xgboost(table, None, weight)
    other = scores_of_xgboost(table, objective("xgboost"), weight, base_score=start.tolist())
    np.testing.assert_allclose(other, own, rtol=1e-4, atol=2e-5)

    start = initial_scores("lightgbm", table.labels, 10, weight)
    own = scores_of_lightgbm(table, None, weight, boost_from_average=True)
    every_row = np.tile(start, (len(table.train), 1))
    data = lightgbm.Dataset(table.train, table.labels, weight=weight, init_score=every_row)
    settings = {**train_boosting.lightgbm_settings(table, objective("lightgbm")), **ONE_THREAD}
    booster = lightgbm.train(settings, data, ROUNDS)
    np.testing.assert_allclose(booster.predict(table.test, raw_score=True) + start, own, rtol=1e-4, atol=1e-5)


def test_initial_scores_of_a_class_without_a_row():
    np.testing.assert_allclose(initial_scores("lightgbm", [0, 0, 2, 2], 3), np.log([0.5, 1e-15, 0.5]), rtol=1e-6)
    scores = initial_scores("xgboost", [0, 0, 2, 2], 3)
    np.testing.assert_allclose(np.diff(scores), np.diff(np.log([0.5 + 1e-6, 1e-6, 0.5 + 1e-6])))
    assert abs(scores.sum()) < 1e-12


# The interfaces in scikit-learn's manner ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_xgbclassifier(table, weighted):
    names = np.array(list("abcdefghij"))[table.labels]  # of which it makes numbers
    weight = weights_of(table) if weighted else None
    settings = {"n_estimators": ROUNDS, "max_depth": 4, "base_score": 0.5, "n_jobs": 1}
    own = xgboost.XGBClassifier(**settings)
    other = xgboost.XGBClassifier(**settings, objective=objective("xgboost"))
    labels = np.unique(names, return_inverse=True)[1]
    for model in (own, other):
        model.fit(table.train, labels, sample_weight=weight)
    assert_rounded(other.predict_proba(table.test), own.predict_proba(table.test))
    np.testing.assert_array_equal(other.predict(table.test), own.predict(table.test))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("weighted", [False, True])
def test_lgbmclassifier(table, weighted):
    weight = weights_of(table) if weighted else None
    settings = {"n_estimators": ROUNDS, "num_leaves": 15, "verbose": -1, "boost_from_average": False, "n_jobs": 1}
    own = lightgbm.LGBMClassifier(**settings)
    other = lightgbm.LGBMClassifier(**settings, objective=objective("lightgbm"))
    for model in (own, other):
        model.fit(table.train, table.labels, sample_weight=weight)
    scores = other.predict(table.test, raw_score=True)
    assert_rounded(fastce.softmax(scores), own.predict_proba(table.test))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_estimators_are_cloned_with_their_objective(table, library):
    from sklearn.base import clone

    make = {"xgboost": xgboost.XGBClassifier, "lightgbm": lightgbm.LGBMClassifier}[library]
    model = clone(make(n_estimators=2, objective=objective(library, label_smoothing=0.1)))
    assert model.objective.label_smoothing == 0.1
    assert pickle.loads(pickle.dumps(model)).objective.library == library


# The benchmark --------------------------------------------------------------------------------------------------------


def test_the_benchmark_prints_what_it_compares(capsys):
    train_boosting.main(["--rows", "2000", "--rounds", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    for name in ("digits", "generated"):
        for library in ("xgboost", "lightgbm"):
            assert f"{library} on {name}" in printed
    assert printed.count("objective") == printed.count("a round without trees") == 12


def test_the_benchmark_notices_another_model(table):
    own = train("xgboost", table, None)
    other = train("xgboost", table, objective("xgboost", label_smoothing=0.1))
    with pytest.raises(AssertionError, match="only"):
        train_boosting.agree(table, own, other)
