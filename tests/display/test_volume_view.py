"""The 3-D view: NiiVue gets the CT and the organs in their colours, and without it a picture turns."""

import io
import sys

import numpy as np
import pytest
from cases import ct, labels
from PIL import Image

from flare_lib.ct.labels import ORGANS, present_organs
from flare_lib.display.explorers import surface_figure
from flare_lib.display.surfaces import OrganSurfaces
from flare_lib.display.volume_view import VolumeView, _organ_table
from flare_lib.display.widgets import pixels


def test_niivue_gets_both_volumes_and_the_organs_colours():
    view = VolumeView(ct(), labels())
    assert view.in_webgl
    grey, organs = view.children[0].volumes
    assert (grey.cal_min, grey.cal_max) == (-160.0, 240.0)
    assert organs.colormap_label is not None
    table = _organ_table()
    assert len(table["R"]) == len(ORGANS) + 1
    assert (table["R"][1], table["G"][1], table["B"][1], table["A"][:2]) == (0x91, 0x4D, 0x04, [0, 255])


def test_without_ipyniivue_the_organs_can_be_turned(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)  # what `import` takes for a package that is not there
    view = VolumeView(ct(), labels())
    assert not view.in_webgl
    assert list(view.children[0].sliders) == ["degrees"]


def test_where_nothing_can_be_moved_the_organs_are_seen_from_the_front_above_their_legend():
    view = VolumeView(ct(), labels())
    shown = np.asarray(Image.open(io.BytesIO(view._repr_mimebundle_()["image/png"])))
    front = OrganSurfaces(labels(), ct().spacing_zyx_mm, pixel_mm=1.0).picture(20)
    title = "the organs from the front, turned a little to the side"
    np.testing.assert_array_equal(shown, pixels(surface_figure({title: front}, present_organs(labels()))))


def test_labels_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="must have the CT's shape"):
        VolumeView(ct(), labels()[1:])
