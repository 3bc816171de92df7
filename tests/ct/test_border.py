"""What the border of a scan cuts: boxes that touch a plane, or the rim of a round field."""

import numpy as np
import pytest

from flare_lib.ct.border import cut_labels

SHAPE = (9, 14, 20)


def boxes():
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 4:7, 5:9] = 1
    labels[2:5, 8:10, 11:14] = 5
    return labels


@pytest.mark.parametrize("plane", [(0,), (-1,), (4, 0), (4, -1), (4, 6, 0), (4, 6, -1)])
def test_a_label_in_an_outermost_plane_is_cut(plane):
    labels, ct = boxes(), np.zeros(SHAPE, np.int16)
    assert cut_labels(labels, ct) == frozenset()
    labels[plane] = 7
    assert cut_labels(labels, ct) == {7}


@pytest.mark.parametrize(("y", "x"), [(3, 6), (7, 6), (5, 4), (5, 9)])
def test_a_label_beside_padding_in_its_slice_is_cut(y, x):
    ct = np.full(SHAPE, -1024, np.int16)
    ct[4, y, x] = -2000
    assert cut_labels(boxes(), ct) == {1}


def test_padding_further_away_or_in_the_next_slice_cuts_nothing():
    ct = np.zeros(SHAPE, np.int16)
    ct[4, 2, 6] = ct[6, 5, 6] = -3024
    assert cut_labels(boxes(), ct) == frozenset()


def test_nothing_is_cut_where_nothing_is():
    assert cut_labels(np.zeros(SHAPE, np.uint8), np.full(SHAPE, -3024)) == frozenset()


def test_the_rim_of_a_round_field_is_found_in_many_slices_too():
    labels, ct = np.zeros((300, 6, 8), np.uint8), np.zeros((300, 6, 8), np.int16)
    labels[40:260, 2:4, 3:5] = 12
    ct[:, 2:4, 5] = -32768
    assert cut_labels(labels, ct) == {12}
