"""Our nets in the hands of other programs."""

import pytest
from scans import assert_refused

from flare_lib.network import weights
from flare_lib.network.nnunet_folder import load_nnunet_folder
from flare_lib.network.weights import load_trained, packaged_weights


def test_the_fine_net_is_exported_and_can_be_used_at_once(flare, tmp_path):
    code, out, err = flare("export", "--nnunet", tmp_path / "results")
    folder = tmp_path / "results" / "Dataset922_FLARE22" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert (code, err) == (0, [])
    assert out[0].startswith(f"wrote {folder}; use it with --nnunet, or: nnUNet_results={tmp_path / 'results'} ")
    plans, fine = load_nnunet_folder(folder).plans, load_trained(packaged_weights("fine"))
    assert (plans.spacing_mm, plans.patch_size) == (fine.preprocessing.spacing_zyx_mm, fine.patch_size)
    assert_refused(flare("export", "--nnunet", tmp_path / "results"), "an export must not replace another one")


def test_a_net_that_nnunet_cannot_express_is_refused(flare, tmp_path):
    answer = flare("export", "--nnunet", tmp_path / "results", "--weights", weights.packaged_weights("coarse"))
    assert_refused(answer, "must have global normalisation (mean_hu and sd_hu), got individual")


@pytest.mark.parametrize("missing", [(), ("--weights", "a")])
def test_where_to_must_be_said(flare, missing):
    assert_refused(flare("export", *missing), "Missing option '--nnunet'")
