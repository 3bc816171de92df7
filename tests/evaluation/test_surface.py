"""Surface distances: by hand, by a distance transform of everything, and at their edges."""

import warnings
from unittest import mock

import numpy as np
import pytest
import surface_distance as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flare_lib.evaluation import surface
from flare_lib.evaluation.surface import surface_distances
from flare_lib.evaluation.surfels import surfel_areas

SPACING = (2.5, 1.5, 0.8)
SHAPE = (7, 9, 11)


def block(z, y, x, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def slow(a, b, spacing):
    """Distances and areas by a distance transform over the whole, padded grid: the definition, word for word."""
    corners = 2.0 ** np.arange(7, -1, -1).reshape(2, 2, 2)
    codes = [ndimage.correlate(np.pad(m, 2).astype(float), corners, mode="constant").astype(int) for m in (a, b)]
    cells = [(c > 0) & (c < 255) for c in codes]
    far = [ndimage.distance_transform_edt(~c, sampling=spacing) if c.any() else np.full(c.shape, np.inf) for c in cells]
    areas = surfel_areas(spacing)
    return far[1][cells[0]], far[0][cells[1]], areas[codes[0][cells[0]]], areas[codes[1][cells[1]]]


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: (lambda rng: [_blob(rng) for _ in range(2)])(np.random.default_rng(seed))
)


def _blob(rng):
    field = ndimage.gaussian_filter(rng.standard_normal((6, 8, 9)), rng.uniform(0, 2))
    return field > np.quantile(field, rng.uniform(0.2, 1.0))


spacings = st.tuples(*[st.sampled_from([0.7, 1.0, 1.5, 2.5, 5.0])] * 3)


@settings(max_examples=50)
@given(masks, spacings, st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, 5.0, 7.0]))
def test_it_is_the_definition(pair, spacing, tolerance):
    a, b = pair
    found = surface_distances(a, b, spacing)
    p, r, p_area, r_area = slow(a, b, spacing)
    np.testing.assert_allclose(found.prediction_mm, p, rtol=1e-12)
    np.testing.assert_allclose(found.reference_mm, r, rtol=1e-12)
    np.testing.assert_array_equal(found.prediction_mm2, p_area)
    np.testing.assert_array_equal(found.reference_mm2, r_area)
    near = surface_distances(a, b, spacing, within_mm=tolerance)
    with mock.patch.object(surface, "MOST_PLACES", 0):  # the tree instead of the places around
        by_tree = surface_distances(a, b, spacing, within_mm=tolerance)
    np.testing.assert_allclose(near.prediction_mm, by_tree.prediction_mm, rtol=1e-12)
    np.testing.assert_allclose(near.reference_mm, by_tree.reference_mm, rtol=1e-12)
    np.testing.assert_allclose(near.prediction_mm, np.where(found.prediction_mm <= tolerance, p, np.inf), rtol=1e-12)
    if a.any() or b.any():
        share = (p_area[p <= tolerance + 1e-9].sum() + r_area[r <= tolerance + 1e-9].sum()) / (
            p_area.sum() + r_area.sum()
        )
        assert near.surface_dice(tolerance) == pytest.approx(share, abs=1e-9)


@settings(max_examples=50)
@given(masks, spacings, st.sampled_from([0.0, 1.0, 2.5, 5.0]))
def test_google_deepminds_package_gives_the_same(pair, spacing, tolerance):
    if not any(mask.any() for mask in pair):
        return
    with mock.patch.object(np, "Inf", np.inf, create=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its last release is older than numpy 2
        expected = theirs.compute_surface_distances(pair[1], pair[0], spacing)
    found = surface_distances(*pair, spacing)
    assert found.surface_dice(tolerance) == pytest.approx(
        theirs.compute_surface_dice_at_tolerance(expected, tolerance), abs=1e-6
    )
    np.testing.assert_allclose(np.sort(found.prediction_mm), expected["distances_pred_to_gt"], atol=1e-6)
    np.testing.assert_allclose(np.sort(found.reference_mm), expected["distances_gt_to_pred"], atol=1e-6)


def test_a_block_moved_along_an_axis():
    a, b = block((2, 5), (2, 7), (2, 8)), block((3, 6), (2, 7), (2, 8))
    found = surface_distances(a, b, SPACING)
    assert [(mm.min(), mm.max()) for mm in (found.prediction_mm, found.reference_mm)] == [(0, 2.5)] * 2
    assert found.surface_dice(2.5) == 1.0  # not 1e-16 too far
    assert 0.3 < found.surface_dice(2.49) < 1.0
    assert surface_distances(a, a, SPACING).surface_dice(0.0) == 1.0


def test_a_block_has_the_area_of_its_faces_less_what_its_edges_and_corners_lose():
    found = surface_distances(block((1, 6), (1, 8), (1, 10)), block((1, 6), (1, 8), (1, 10)), SPACING)
    nz, ny, nx = 5, 7, 9
    dz, dy, dx = SPACING
    faces = 2 * ((ny - 1) * (nx - 1) * dy * dx + (nz - 1) * (nx - 1) * dz * dx + (nz - 1) * (ny - 1) * dz * dy)
    edges = 2 * ((nx - 1) * dx * np.hypot(dz, dy) + (ny - 1) * dy * np.hypot(dz, dx) + (nz - 1) * dz * np.hypot(dy, dx))
    corner = np.linalg.norm(np.cross([dz, -dy, 0], [dz, 0, -dx])) / 8
    assert found.prediction_mm2.sum() == pytest.approx(faces + edges + 8 * corner)


def test_a_mask_that_fills_the_array_has_a_surface_around_it():
    full = np.ones((3, 4, 5), bool)
    assert len(surface_distances(full, full, SPACING).prediction_mm) == 4 * 5 * 6 - 2 * 3 * 4


def test_empty_masks():
    nothing, something = np.zeros(SHAPE, bool), block((2, 5), (2, 7), (2, 8))
    both = surface_distances(nothing, nothing, SPACING)
    assert np.isnan(both.surface_dice(2.0))
    one = surface_distances(nothing, something, SPACING)
    assert one.surface_dice(1e6) == 0.0
    assert (one.prediction_mm.size, set(one.reference_mm)) == (0, {np.inf})
    assert surface_distances(np.zeros((0, 4, 5), bool), np.zeros((0, 4, 5), bool), SPACING).prediction_mm.size == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": np.zeros(SHAPE)}, r"prediction must be a mask, bool \(Z, Y, X\), got float64"),
        ({"reference": np.zeros((3, 4), bool)}, r"reference must be a mask, .* got bool \(3, 4\)"),
        ({"reference": np.zeros((3, 4, 5), bool)}, "must have one shape"),
        ({"spacing_zyx_mm": (1.0, 0.0, 1.0)}, "3 positive numbers"),
        ({"within_mm": -1.0}, "within_mm must be 0 or more, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    fits = {"prediction": np.zeros(SHAPE, bool), "reference": np.zeros(SHAPE, bool), "spacing_zyx_mm": SPACING}
    with pytest.raises(ValueError, match=message):
        surface_distances(**{**fits, **changes})


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_a_tolerance_that_cannot_be_is_refused(tolerance):
    mask = np.ones((2, 3, 4), bool)
    with pytest.raises(ValueError, match=r"^tolerance_mm must be 0 or more, got "):
        surface_distances(mask, mask, (3.0, 2.0, 1.0)).surface_dice(tolerance)
