"""Taps: the two neighbours and weights that torch uses along an axis."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flare_lib.ct.linear_taps import linear_taps


@given(st.integers(1, 30), st.integers(1, 60), st.booleans())
def test_taps_interpolate_as_torch_does(n_in, n_out, align_corners):
    values = np.random.default_rng(n_in).standard_normal(n_in).astype(np.float32)
    taps = linear_taps(n_in, n_out, align_corners=align_corners)
    ours = taps.lower_weight * values[taps.lower] + taps.upper_weight * values[taps.upper]
    line = torch.from_numpy(values)[None, None]
    theirs = torch.nn.functional.interpolate(line, n_out, mode="linear", align_corners=align_corners)[0, 0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert taps.upper.max() < n_in
    np.testing.assert_allclose(taps.lower_weight + taps.upper_weight, 1, atol=1e-6)


def test_a_part_reads_an_input_that_begins_later():
    taps = linear_taps(10, 20)
    part = taps.part(8, 12, shift=3)
    np.testing.assert_array_equal(part.lower, taps.lower[8:12] - 3)
    assert part.upper_weight == pytest.approx(taps.upper_weight[8:12])
