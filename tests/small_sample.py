"""A phantom that stands in for the sample, and nets that see large voxels: for notebooks run for their code alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.volume import Volume
from flare_lib.data.archives import SourceUnavailable
from flare_lib.inference.stages import load_stages
from flare_lib.synthetic.phantom import phantom_case

CT, LABELS = "phantom_ct.nii.gz", "phantom_13_organs.nii.gz"


def write_small_sample(cache: Path) -> tuple[Volume, Volume]:
    """Write the phantom where the library looks for one when it finds no sample; return its CT and its labels."""
    ct, labels = (
        Volume.from_array(volume.array_zyx, (5.0, 4.0, 4.4))  # as wide as notebook 06 wants it, for its two tiles
        for volume in phantom_case(0, shape_zyx=(50, 85, 110), spacing_zyx_mm=(5.0, 4.0, 4.0))
    )
    save_ct(cache / CT, ct)
    save_label_map(cache / LABELS, labels.array_zyx, ct)
    return ct, labels


def use_small_sample(patch: pytest.MonkeyPatch) -> None:
    """Have nothing fetched, phantoms drawn coarsely, and the packaged nets see an eighth of the voxels."""

    def offline(cache):
        raise SourceUnavailable("there is no network here")

    def quick_stages(*folder, **settings):
        stages = load_stages(*folder, **settings)
        for stage in stages:
            mm = stage.preprocessing.spacing_zyx_mm
            stage.preprocessing = replace(stage.preprocessing, spacing_zyx_mm=tuple(2 * spacing for spacing in mm))
            stage.patch_size = (32, 32, 48)
        return stages

    patch.setattr("flare_lib.data.sources.fetch_sample", offline)
    patch.setattr("flare_lib.load_stages", quick_stages)  # first: it is then loaded, and comes back afterwards
    patch.setattr("flare_lib.inference.stages.load_stages", quick_stages)
    patch.setattr("flare_lib.synthetic.phantom._DRAWING_MM", 5.0)  # not 2.5: drawing takes longest
