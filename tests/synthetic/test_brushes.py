"""The brushes: an ellipsoid and a tube have the volume that geometry says, and draw only where they may."""

import numpy as np
import pytest

from flare_lib.synthetic.brushes import Drawing

IDS = {"air": 0, "fat": 1, "liver": 2}
SPACING_MM = 2.0


class NoJitter:
    """A generator that always draws the middle, so that shapes are where they are said to be."""

    def uniform(self, low, high, size=None):
        return np.full(size, (low + high) / 2) if size is not None else (low + high) / 2


def drawing():
    return Drawing(IDS, (-40.0, -50.0, -60.0), (40.0, 50.0, 60.0), SPACING_MM, NoJitter())


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_an_ellipsoid_has_its_volume_and_its_centre(tilt):
    d = drawing()
    d.ellipsoid("liver", (10, -6, 4), (30, 22, 14), tilt=tilt, jitter=0)
    where = np.argwhere(d.ids == 2)
    assert len(where) * SPACING_MM**3 == pytest.approx(4 / 3 * np.pi * 30 * 22 * 14, rel=0.02)
    center_zyx_mm = (where.mean(axis=0) + 0.5) * SPACING_MM + (-40, -50, -60)
    np.testing.assert_allclose(center_zyx_mm, (4, -6, 10), atol=0.3)


def test_a_tube_is_a_cylinder_with_round_ends():
    d = drawing()
    d.tube("liver", [(-30, 0, 0), (30, 0, 0)], 10, jitter=0)
    expected = np.pi * 10**2 * 60 + 4 / 3 * np.pi * 10**3
    assert (d.ids == 2).sum() * SPACING_MM**3 == pytest.approx(expected, rel=0.03)


def test_a_shape_covers_only_what_it_may_cover():
    d = drawing()
    d.ellipsoid("fat", (0, 0, 0), (30, 30, 30), jitter=0)
    d.ellipsoid("liver", (20, 0, 0), (30, 20, 20), jitter=0, only=("fat",))
    before = drawing()
    before.ellipsoid("fat", (0, 0, 0), (30, 30, 30), jitter=0)
    assert (d.ids == 2).any()
    np.testing.assert_array_equal(d.ids > 0, before.ids > 0)


def test_a_shape_beyond_the_edge_is_cut_there():
    d = drawing()
    d.ellipsoid("liver", (60, 0, 0), (20, 20, 20), jitter=0)
    assert (d.ids[:, :, -1] == 2).any()
    assert (d.ids == 2).sum() * SPACING_MM**3 == pytest.approx(2 / 3 * np.pi * 20**3, rel=0.05)


def test_slices_cover_the_grid_once_from_the_feet_up():
    d = drawing()
    for k, box in enumerate(d.slices()):
        assert d.ids[box].shape == (1, 50, 60)
        d.ids[box] += k + 1
    np.testing.assert_array_equal(d.ids, np.broadcast_to(np.arange(1, 41)[:, None, None], (40, 50, 60)))
