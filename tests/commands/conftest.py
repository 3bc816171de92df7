"""A CT on disk and nets that need no time."""

import pytest
from scans import grey_values, labels_zyx, save

from flare_lib.ct.roi import Box
from flare_lib.inference import coarse_to_fine, methods, stages
from flare_lib.inference.coarse_to_fine import Segmentation


@pytest.fixture
def nets(monkeypatch):
    """Nets that always find the two organs; the list holds what `segment` was asked for."""
    asked = []

    def segment(ct, coarse, fine, *, margin_mm, tile_steps, fit_tiles, progress=None):
        asked.append((coarse, fine, margin_mm))
        assert (tile_steps, fit_tiles) == ((1.0, 0.5), 1.0)
        if progress:
            progress("coarse", 1, 1)
        box = Box((0, 0, 0), ct.shape_zyx)
        return Segmentation(
            labels_zyx(),
            ct,
            box,
            {"coarse net": 0.5, "fine net": 1.0},
            ("looked everywhere",),
            precision={"fine": "float32"},
        )

    monkeypatch.setattr(
        stages,
        "load_stages",
        lambda folder, *, device, precision, engine: (f"coarse of {folder} in {precision}", device),
    )
    monkeypatch.setattr(coarse_to_fine, "segment", segment)
    methods.open_method.cache_clear()
    yield asked
    methods.open_method.cache_clear()


@pytest.fixture
def ct_path(tmp_path):
    return save(tmp_path / "case_0000.nii.gz", grey_values())
