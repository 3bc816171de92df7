"""Computers that lack something: it is done without, or said in one line."""

import nibabel as nib
import numpy as np
import pytest
import torch

from flare_lib.cli import run
from flare_lib.inference import stages
from flare_lib.network.unet import UNet
from flare_lib.network.weights import save_trained


@pytest.fixture
def ct_paths(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 300, (14, 20, 17)).astype(np.int16)
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for path in paths:
        nib.save(nib.Nifti1Image(hu, np.diag([5.0, 4.0, 6.0, 1.0])), path)
    return paths


@pytest.fixture
def weights(tmp_path):
    """A folder with two small nets."""
    torch.manual_seed(0)
    for stage in ("coarse", "fine"):
        net = UNet(features_per_stage=(4, 6, 8), strides=((2, 2, 2), (1, 2, 2)), n_heads=2)
        preprocessing = {
            "spacing_zyx_mm": [9.0, 8.0, 7.0],
            "window_hu": [-325.0, 325.0],
            "mean_hu": None,
            "sd_hu": None,
        }
        save_trained(tmp_path / "nets" / stage, net, {"preprocessing": preprocessing, "patch_size": [8, 16, 12]})
    return tmp_path / "nets"


@pytest.fixture
def segmented(ct_paths, weights, tmp_path, capsys):
    """Run `flare segment` on two CTs; return the exit code, the lines on stderr and the files written."""
    target = tmp_path / "labels"
    target.mkdir()

    def segment(*options):
        code = run([*("segment", *map(str, ct_paths), "-o", str(target), "--weights-dir", str(weights)), *options])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        return code, errors, sorted(path.name for path in target.glob("*.nii.gz"))

    return segment


def test_a_number_format_that_the_machine_does_not_have_is_refused(segmented, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    code, (error,), written = segmented("--device", "cpu", "--precision", "bfloat16")
    assert (code, written) == (2, [])
    assert error.startswith("error: precision must be auto or what this cpu computes natively (float32")
    assert error.endswith("got bfloat16")


def test_a_device_that_is_not_there_is_refused_before_any_work(segmented):
    code, (error,), written = segmented("--device", "cuda:99")
    assert (code, written) == (2, [])
    assert error.startswith("error: device must be auto or one that torch can use here, got cuda:99")


@pytest.mark.parametrize("full_for", [1, 99])
def test_a_full_device_ends_that_case_alone_in_one_line(segmented, monkeypatch, full_for):
    finest, patches = stages.finest_in_place, []

    def full_at_first(net, patch):
        patches.append(patch)
        if len(patches) <= full_for:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return finest(net, patch)

    monkeypatch.setattr(stages, "finest_in_place", full_at_first)
    code, errors, written = segmented("--device", "cpu", "--precision", "float32", "--workers", "0")
    assert (code, len(errors), written) == ((2, 1, ["b.nii.gz"]) if full_for == 1 else (2, 2, []))
    assert errors[0].endswith("a.nii.gz: there must be enough memory for it, got too little (cpu is full)")
