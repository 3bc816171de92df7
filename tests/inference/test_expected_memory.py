"""The memory that a case is expected to need: by its voxels, its size, and the nets that look at it."""

from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch

from flare_lib.data.cohort import Case
from flare_lib.inference.expected_memory import expected_memory_mib
from flare_lib.inference.methods import Ensemble, Settings
from flare_lib.network.complexity import peak_bytes
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.unet import UNet
from flare_lib.network.weights import save_trained


def test_memory_is_expected_by_the_voxels_of_the_ct_and_of_a_tile(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((7, 6, 5), np.int16), np.diag([1.5, 2.0, 3.0, 1.0])), tmp_path / "ct.nii.gz")
    case = Case("a", tmp_path / "ct.nii.gz")
    least = expected_memory_mib(Case("none", tmp_path / "none.nii.gz"), Settings(fast=True))
    assert expected_memory_mib(case, Settings(fast=True)) == pytest.approx(least + 4 * 5 * 6 * 7 / 2**20)
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0").write_bytes(bytes(2**20))
    assert expected_memory_mib(Case("s", tmp_path / "series"), Settings(fast=True)) == pytest.approx(least + 4)
    larger, largest = (expected_memory_mib(case, Settings(fast=True, fit_tiles=cap)) for cap in (1.5, 2.0))
    assert expected_memory_mib(case, Settings(fast=True)) < larger < largest


def test_a_body_shown_larger_takes_the_memory_of_more_scores_and_of_a_larger_image(tmp_path):
    net = UNet(1, 4, (3, 5), ((1, 2, 2),), n_heads=1)
    preprocessing = {"spacing_zyx_mm": [4.0, 2.0, 1.5], "window_hu": [-325.0, 325.0], "mean_hu": None, "sd_hu": None}
    save_trained(tmp_path / "fine", net, {"preprocessing": preprocessing, "patch_size": [8, 16, 12]})
    nib.save(nib.Nifti1Image(np.zeros((40, 50, 30), np.int16), np.diag([3.0, 2.0, 5.0, 1.0])), tmp_path / "ct.nii.gz")
    case = Case("a", tmp_path / "ct.nii.gz")

    def more(scale, folder=tmp_path):
        as_it_is, shown = (expected_memory_mib(case, Settings(folder, scale=s)) for s in (1.0, scale))
        return (shown - as_it_is) * 2**20

    across, along = 40 * 3 * 50 * 2 / (2 * 1.5), 30 * 5 / 4  # voxels of the net
    scores, image = 4 * 4 * (8 + 16) * across, 4 * across * along
    assert more(2.0) == pytest.approx(scores * 3 + image * 7, rel=1e-6)
    assert more(1.5) == pytest.approx(scores * 1.25 + image * 2.375, rel=1e-6)
    assert more(0.5) == more(2.0, tmp_path / "lost") == 0
    assert more(2.0, None) > 0


def test_each_view_takes_the_memory_of_its_scores_and_of_its_image(tmp_path):
    net = UNet(1, 4, (3, 5), ((1, 2, 2),), n_heads=1)
    preprocessing = {"spacing_zyx_mm": [4.0, 2.0, 1.5], "window_hu": [-325.0, 325.0], "mean_hu": None, "sd_hu": None}
    card = {"preprocessing": preprocessing, "patch_size": [8, 16, 12], "scales": [1.0, 1.25]}
    save_trained(tmp_path / "fine", net, card)
    nib.save(nib.Nifti1Image(np.zeros((40, 50, 30), np.int16), np.diag([3.0, 2.0, 5.0, 1.0])), tmp_path / "ct.nii.gz")

    def more(**settings):
        both, one = (
            expected_memory_mib(Case("a", tmp_path / "ct.nii.gz"), Settings(tmp_path, **settings, fast=fast))
            for fast in (False, True)
        )
        return (both - one) * 2**20

    across, along = 40 * 3 * 50 * 2 / (2 * 1.5), 30 * 5 / 4  # voxels of the net
    scores, image = 4 * 4 * (8 + 16) * across, 4 * across * along
    assert more() == pytest.approx(scores * 1.25**2 + image * 1.25**3, rel=1e-6)
    assert more(scale=2.0) == pytest.approx(scores * 2.5**2 + image * 2.5**3, rel=1e-6)
    assert more(nnunet=tmp_path) == 0


def test_memory_of_pseudo_labels_is_that_of_all_their_scores_and_of_the_nets(tmp_path):
    torch.manual_seed(0)
    net = UNet(1, 4, (3, 5), ((1, 2, 2),), n_heads=1)
    for name, spacing in (("first", [4.0, 2.0, 1.5]), ("second", [9.0, 9.0, 9.0])):
        preprocessing = {"spacing_zyx_mm": spacing, "window_hu": [-325.0, 325.0], "mean_hu": None, "sd_hu": None}
        save_trained(tmp_path / name, net, {"preprocessing": preprocessing, "patch_size": [8, 16, 12]})
    ensemble = Ensemble((tmp_path / "first", tmp_path / "second"), (0.5, 1.0))
    ct = tmp_path / "lying.nii.gz"  # its slices are along the file's first axis
    affine = np.array([[0.0, 2.0, 0, 0], [0, 0, 3.0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((30, 40, 50), np.int16), affine), ct)
    patch = peak_bytes(net, (8, 16, 12), finest_in_place) - 4 * net.n_parameters
    scores = 4 * 5 * (40 * 2) * (50 * 3) * (30 * 5 + 8 * 8) / (8 * 4 * 3)  # half the size is twice the spacing
    expected = (2 * 4 * net.n_parameters + patch + scores + 10 * 30 * 40 * 50) / 2**20
    nothing = expected_memory_mib(Case("none", tmp_path / "none.nii.gz"), Settings())
    assert expected_memory_mib(Case("a", ct), Settings(ensemble=ensemble)) == pytest.approx(nothing + expected)
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0").write_bytes(bytes(2**20))
    series = Case("s", tmp_path / "series")
    scores = 4 * 5 * (2**20 * 1.5 + 500 * 500 * 64) / (8 * 4 * 3)
    expected = (2 * 4 * net.n_parameters + patch + scores + 10 * 2**20) / 2**20
    assert expected_memory_mib(series, Settings(ensemble=ensemble)) == pytest.approx(nothing + expected)
    lost = Ensemble((tmp_path / "lost",), (1.0,))
    assert expected_memory_mib(series, Settings(ensemble=lost)) == pytest.approx(nothing + 10)


def test_weights_saved_in_place_of_others_are_counted_anew(tmp_path):
    preprocessing = {"spacing_zyx_mm": [4.0, 2.0, 1.5], "window_hu": [-325.0, 325.0], "mean_hu": None, "sd_hu": None}
    nib.save(nib.Nifti1Image(np.zeros((40, 50, 30), np.int16), np.diag([3.0, 2.0, 5.0, 1.0])), tmp_path / "ct.nii.gz")
    case = Case("a", tmp_path / "ct.nii.gz")
    ensemble = Ensemble((tmp_path / "coarse", tmp_path / "fine"), (1.0,))

    def expected():
        return [expected_memory_mib(case, how) for how in (Settings(tmp_path, scale=2.0), Settings(ensemble=ensemble))]

    seen = [expected()]
    for n_classes in (4, 14):
        net = UNet(1, n_classes, (3, 5), ((1, 2, 2),), n_heads=1)
        for name in ("coarse", "fine"):
            save_trained(tmp_path / name, net, {"preprocessing": preprocessing, "patch_size": [8, 16, 12]})
        seen.append(expected())
    for before, after in pairwise(seen):
        assert (np.array(after) > before).all()
    assert expected() == seen[-1]
