"""Moments: numpy's mean and SD in double precision, and those of many arrays together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flare_lib.ct.moments import Moments

GREY_VALUES = arrays(np.int16, st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 6)))


@given(st.lists(GREY_VALUES, min_size=1, max_size=4))
def test_the_sum_of_moments_is_that_of_all_values_together(parts):
    together = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
    moments = sum(map(Moments.of, parts), Moments())
    assert moments.count == together.size
    if together.size:
        assert moments.mean == pytest.approx(together.mean(), abs=1e-9)
        assert moments.sd == pytest.approx(together.std(), abs=1e-7, rel=1e-9)


def test_moments_are_those_of_numpy_in_double_precision():
    array = np.random.default_rng(0).normal(1000, 0.5, (70, 90, 230)).astype(np.float32)  # more than one piece
    moments = Moments.of(array)
    assert moments.mean == pytest.approx(array.astype(np.float64).mean(), rel=1e-12)
    assert moments.sd == pytest.approx(array.astype(np.float64).std(), rel=1e-9)
    strided = array[::3, 1::2, ::5]
    assert Moments.of(strided).sd == pytest.approx(strided.astype(np.float64).std(), rel=1e-9)


def test_two_values_by_hand():
    assert (Moments.of(np.array([-1, 3], np.int16)).mean, Moments.of(np.array([-1, 3], np.int16)).sd) == (1.0, 2.0)


def test_what_is_constant_has_no_deviation_at_all():
    assert Moments.of(np.full((3, 4, 5), -1024, np.int16)).sd == 0


def test_no_values_are_neutral_and_have_no_sd():
    one = Moments.of(np.array([1.0, 5.0]))
    assert one + Moments() == Moments() + one == one
    with pytest.raises(ValueError, match="at least one voxel, got none"):
        _ = Moments.of(np.zeros((0, 2, 3))).sd
