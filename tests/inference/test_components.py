"""Components: counted as cc3d and scipy count them, and erased voxel by voxel."""

import cc3d
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from flare_lib.inference.components import erase, find_components, keep_largest_piece


@st.composite
def label_maps(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8)))
    labels = np.random.default_rng(draw(st.integers(0, 10_000))).choice([0, 0, 1, 5, 13], size=shape)
    return labels.astype(np.uint8)


@given(label_maps())
def test_sizes_and_centroids_are_those_of_cc3d(label_map):
    found = find_components(label_map)
    statistics = cc3d.statistics(found.ids)
    np.testing.assert_array_equal(found.sizes[1:], statistics["voxel_counts"][1:])
    np.testing.assert_allclose(found.centroids_zyx[1:], statistics["centroids"][1:])


@given(label_maps())
def test_each_label_has_the_components_that_scipy_finds(label_map):
    found = find_components(label_map)
    for label in np.unique(label_map[label_map > 0]):
        theirs, n = ndimage.label(label_map == label, np.ones((3, 3, 3)))
        ours = np.flatnonzero(found.labels == label)
        assert sorted(found.sizes[ours]) == sorted(np.bincount(theirs.ravel())[1:])
        assert len(ours) == n


@given(label_maps())
def test_the_first_voxels_come_in_the_order_of_the_ranks(label_map):
    found = find_components(label_map)
    first = [np.flatnonzero(found.ids.ravel() == i)[0] for i in range(1, len(found.sizes))]
    assert [first[i] for i in np.argsort(found.ranks[1:])] == sorted(first)


@given(label_maps(), st.integers(0, 100))
def test_what_is_not_kept_becomes_background_and_is_counted(label_map, seed):
    found = find_components(label_map)
    kept = np.random.default_rng(seed).random(len(found.sizes)) < 0.5
    before = label_map.copy()
    removed = erase(label_map, found.ids, kept)
    gone = (found.ids > 0) & ~kept[found.ids]
    np.testing.assert_array_equal(label_map, np.where(gone, 0, before))
    np.testing.assert_array_equal(removed, np.bincount(before[gone], minlength=14))


@given(label_maps(), st.sampled_from([(1,), (2,), (1, 2), (13, 1)]), st.sampled_from([np.inf, 1.0, 3.0]))
def test_the_largest_piece_by_faces_stays_and_what_is_not_small(label_map, labels, min_voxels):
    expected = label_map.copy()
    pieces, n = ndimage.label(np.isin(label_map, labels))  # by faces
    sizes = [int((pieces == k).sum()) for k in range(1, n + 1)]
    for k, size in enumerate(sizes, start=1):
        if size != max(sizes) and size < min_voxels:
            expected[pieces == k] = 0
    keep_largest_piece(label_map, labels, min_voxels)
    np.testing.assert_array_equal(label_map, expected)
