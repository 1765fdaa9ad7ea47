import numpy as np
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from tenfold.testing.strategies import float_arrays, scores

SEARCH = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@settings(max_examples=100, deadline=None)
@given(float_arrays(columns=(2, 3), min_rows=1, max_rows=40, dtypes=[np.float64]))
def test_shape_and_dtype(values):
    assert values.shape[1:] == (2, 3)
    assert 1 <= len(values) <= 40
    assert values.dtype == np.float64


@settings(max_examples=100, deadline=None)
@given(float_arrays(special=False))
def test_finite_on_demand(values):
    assert np.isfinite(values).all()


def reaches(strategy, condition):
    return find(strategy, condition, settings=SEARCH) is not None


def test_every_kind_of_trouble_is_reached():
    array = float_arrays(max_rows=30)
    assert reaches(array, lambda v: len(v) == 0)
    assert reaches(array, lambda v: np.isnan(v).any() and np.isinf(v).any())
    assert reaches(array, lambda v: (np.signbit(v) & (v == 0)).any())
    assert reaches(array, lambda v: len(v) > 8 and len(np.unique(v, axis=0)) < len(v) // 2 + 1)
    assert reaches(array, lambda v: len(v) > 2 and (v == v[0]).all())
    assert reaches(array, lambda v: len(v) > 5 and (v[:, 1:] == 0).all() and np.ptp(v[:, 0]) > 0)
    assert reaches(array, lambda v: v.size > 9 and v.dtype == np.float32 and np.nanmin(np.abs(v)) > 100)
    assert reaches(array, lambda v: v.size > 9 and np.isfinite(v).all() and 0 < np.abs(v).max() < 1e-4)


def test_shrinks_to_something_small():
    smallest = find(float_arrays(), lambda v: len(v) >= 3, settings=SEARCH)
    assert smallest.shape == (3, 3)
    assert np.isfinite(smallest).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 20).flatmap(lambda n: st.tuples(st.just(n), scores(n, special=False))))
def test_scores(case):
    n, values = case
    assert values.shape == (n,)
    assert ((values >= 0) & (values <= 1)).all()


def test_scores_reach_ties_and_nan():
    assert reaches(scores(20), lambda v: len(np.unique(v)) <= 2)
    assert reaches(scores(20), lambda v: np.isnan(v).any())
    assert reaches(scores(20), lambda v: len(np.unique(v)) == 20)
