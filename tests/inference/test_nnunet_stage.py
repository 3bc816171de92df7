"""Any nnU-Net: the labels that nnU-Net itself gives (recorded), whole or in a box, in every number of folds."""

import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from small_nnunet import DATASET, PLANS, plans, small_ct, small_net, write_results_v1

from flare_lib.ct.files import load_ct
from flare_lib.ct.labels import N_CLASSES, ORGAN_NAMES
from flare_lib.ct.spline import resample_spline
from flare_lib.ct.volume import to_file_axes
from flare_lib.inference import nnunet_stage
from flare_lib.inference.nnunet_stage import NnunetStage, segment_with_nnunet
from flare_lib.network.nnunet_folder import Fold, NnunetModel, load_nnunet_folder
from flare_lib.network.nnunet_plans import Scaling, read_plans
from flare_lib.network.nnunet_postprocessing import LargestOnly

# of nnU-Net 2.8.1: python benchmarks/against_nnunet.py --record
ANSWERS = np.load(Path(__file__).parent / "nnunet_answer.npz")
# of nnU-Net 1.7.1: python benchmarks/record_nnunet_v1.py
ANSWERS_V1 = np.load(Path(__file__).parent / "nnunet_v1_answer.npz")
AS_IT_IS = Scaling((-np.inf, np.inf), 0.0, 1.0)


def stage(predicts=None, changed=PLANS, dataset=DATASET):
    """The miniature model of the recording, or one with other functions in place of its nets."""
    nets = [small_net(seed) for seed in (0, 1)]
    predicts = predicts or [net.finest for net in nets]
    folds = tuple(Fold(str(n), nets[0], predict) for n, predict in enumerate(predicts))
    return NnunetStage(NnunetModel(read_plans(changed, dataset, "3d_fullres"), folds), precision="float32")


@pytest.fixture
def ct(tmp_path, request):
    nib.save(small_ct(getattr(request, "param", "mild")), tmp_path / "ct.nii.gz")
    return load_ct(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("ct", ["mild", "thick"], indirect=True)
def test_labels_are_those_of_nnunet(ct, request):
    expected = ANSWERS[request.node.callspec.params["ct"]]
    result = segment_with_nnunet(ct, stage())
    labels = to_file_axes(result.label_map_zyx, ct.grid)
    assert labels.shape == expected.shape
    assert len(np.unique(expected)) == 5
    # nnU-Net sums in float16, so a voxel in a few hundred, where two labels tie, may differ
    assert (labels != expected).mean() < 0.004
    assert result.precision == {"nnU-Net": "float32"}
    assert result.notes == ()


@pytest.mark.parametrize("ct", ["mild", "thick"], indirect=True)
def test_labels_of_a_folder_of_version_1_are_those_of_nnunet_1(ct, request, tmp_path):
    expected = ANSWERS_V1[request.node.callspec.params["ct"]]
    model = load_nnunet_folder(write_results_v1(tmp_path / "r"))
    labels = to_file_axes(segment_with_nnunet(ct, NnunetStage(model, precision="float32")).label_map_zyx, ct.grid)
    assert len(np.unique(expected)) == 5
    assert (labels != expected).mean() < 0.0005  # it sums in float32, too


def test_version_1s_own_rules_clean_its_labels_up(ct, tmp_path):
    model = load_nnunet_folder(write_results_v1(tmp_path / "r"))
    before = segment_with_nnunet(ct, NnunetStage(model, precision="float32")).label_map_zyx
    pieces = [ndimage.label(np.isin(before, labels))[0] for labels in ((1, 3), (2,))]
    sizes = [np.bincount(ids.ravel())[1:] for ids in pieces]
    assert all(len(of_all) > 1 for of_all in sizes)
    expected = before.copy()
    for ids, of_all in zip(pieces, sizes, strict=True):
        expected[(ids > 0) & (ids != np.argmax(of_all) + 1)] = 0
    ruled = replace(model, rules=(LargestOnly((1, 3)), LargestOnly((2,))))
    after = segment_with_nnunet(ct, NnunetStage(ruled, precision="float32")).label_map_zyx
    np.testing.assert_array_equal(after, expected)
    second = float(np.sort(sizes[1])[-2]) * 1000 * ct.voxel_ml
    kept = replace(model, rules=(LargestOnly((2,), second * 0.99),))
    after = segment_with_nnunet(ct, NnunetStage(kept, precision="float32")).label_map_zyx
    assert (after == 2).sum() >= np.sort(sizes[1])[-2:].sum()


def test_openvino_gives_torchs_labels(ct):
    nets = [small_net(seed) for seed in (0, 1)]
    folds = tuple(Fold(str(n), net, net.finest) for n, net in enumerate(nets))
    model = NnunetModel(read_plans(PLANS, DATASET, "3d_fullres"), folds)
    ours, theirs = (
        segment_with_nnunet(ct, NnunetStage(model, precision="float32", engine=engine)).label_map_zyx
        for engine in ("torch", "openvino")
    )
    assert len(np.unique(ours)) == 5
    assert (ours != theirs).mean() < 0.001  # only where two labels tie


def test_labels_in_the_files_axes_are_those_in_canonical_ones_only_for_such_a_net(ct):
    reorienting = {**PLANS, "image_reader_writer": "NibabelIOWithReorient"}
    labels, mirrored = (
        to_file_axes(segment_with_nnunet(ct, stage(changed=changed)).label_map_zyx, ct.grid)
        for changed in (PLANS, reorienting)
    )
    assert (labels != mirrored).mean() > 0.05


def test_the_folds_logits_are_averaged():
    votes = [torch.full((1, 5, 2, 2, 2), value) for value in (1.0, 2.0, 6.0)]
    averaged = stage([lambda patch, vote=vote: vote for vote in votes]).predict_patch(torch.zeros(1, 1, 2, 2, 2))
    torch.testing.assert_close(averaged, torch.full((1, 5, 2, 2, 2), 3.0))
    assert votes[0].eq(1).all()


@pytest.mark.parametrize("version", [1, 2])
def test_on_the_way_back_version_1_asks_the_ct_for_thick_slices_first_and_version_2_the_net(ct, version, monkeypatch):
    asked = []
    monkeypatch.setattr(nnunet_stage, "thick_axis", lambda first, then: asked.append((first, then)))
    asking = stage()
    asking.plans = replace(asking.plans, version=version)
    segment_with_nnunet(ct, asking)
    there, back = asked
    assert there[1] == asking.plans.spacing_mm != there[0]
    assert asking.plans.transpose_forward == (1, 0, 2)
    (a, b, c), net = there
    assert back == (((b, a, c), net) if version == 1 else (net, (a, b, c)))


@pytest.mark.parametrize(
    ("version", "spacing_mm", "expected"),
    [
        (1, (1.0, 1.1, 1.2), 1),  # axis 0 of the net is thick, and taken for axis 0 of the file: the net's axis 1
        (2, (1.0, 1.1, 1.2), 0),
        (1, (5.0, 1.0, 1.1), 0),  # the CT's own thick axis is told in the file's order, where it is axis 1
        (1, (1.0, 5.0, 1.1), 1),
        (2, (1.0, 5.0, 1.1), 0),
        (1, (5.0, 5.0, 1.1), None),  # two thick axes are none
    ],
)
def test_version_1_takes_an_axis_of_its_net_for_one_of_the_file(version, spacing_mm, expected):
    """As nnU-Net 1.7.1 does: `spacing_after_resampling` is transposed, the softmax on the way back is not."""
    planned = replace(read_plans(PLANS, DATASET, "3d_fullres"), version=version, spacing_mm=(8.0, 2.0, 1.5))
    assert planned.transpose_forward == (1, 0, 2)
    assert nnunet_stage._thick_on_the_way_back(planned, spacing_mm) == expected


def test_version_1_averages_probabilities():
    votes = [torch.tensor([0.0, 8.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])]
    folds = [lambda patch, vote=vote: vote.reshape(1, 5, 1, 1, 1).expand(1, 5, 2, 2, 2) for vote in votes]
    nets = [small_net(0)] * 2
    planned = replace(read_plans(PLANS, DATASET, "3d_fullres"), version=1)
    model = NnunetModel(planned, tuple(map(Fold, "01", nets, folds)))
    averaged = NnunetStage(model, precision="float32").predict_patch(torch.zeros(1, 1, 2, 2, 2))
    expected = (votes[0].softmax(0) + votes[1].softmax(0)) / 2
    torch.testing.assert_close(averaged[0, :, 1, 0, 1], expected)


def test_version_1_clips_what_it_has_resampled():
    array = np.zeros((1, 1, 6), np.int16)
    array[..., 3:] = 1000  # the spline overshoots beside this edge
    window = Scaling((-1000.0, 100.0), 0.0, 1.0)
    planned = read_plans(PLANS, DATASET, "3d_fullres")
    net = Fold("0", small_net(0), small_net(0).finest)
    first, last = (
        NnunetStage(NnunetModel(replace(planned, version=version), (net,)), precision="float32")
        .prepare(array, (2.5, 3.1, 3.3), window)
        .numpy()
        .ravel()
        for version in (2, 1)
    )
    assert first.shape == last.shape == (9,)
    assert not np.allclose(first, last, atol=1.0)
    whole = resample_spline(array, (1, 1, 9))
    np.testing.assert_allclose(last, whole.clip(-1000, 100).ravel(), atol=1e-3)


def brighter_than_0(patch):
    """Class 1 where the image is above 0, background elsewhere."""
    logits = torch.zeros((1, 5, *patch.shape[2:]))
    logits[:, 1] = patch[:, 0]
    return logits


def test_images_are_scaled_and_lie_on_the_planned_grid():
    array = np.full((4, 6, 8), -50, np.int16)
    array[:, 3:] = 500
    image = stage().prepare(array, (5.0, 3.1, 1.1), Scaling((0.0, 100.0), 20.0, 40.0))
    assert image.shape == (1, 8, 6, 4)
    assert image[0, :, :3].eq(-0.5).all()
    assert image[0, :, 3:].eq(2.0).all()
    same = stage().prepare(array, (2.5, 3.1, 2.2), AS_IT_IS)
    np.testing.assert_array_equal(same[0].numpy(), array)


class Box:
    """A coarse stage that finds the liver in one corner of whatever it sees."""

    patch_size = (4, 4, 4)

    def prepare(self, ct):
        image = torch.zeros(1, 4, 4, 4)
        image[0, 2:, 2:, 2:] = 1
        return image

    def predict_patch(self, patch):
        scores = torch.zeros(1, N_CLASSES, 4, 4, 4)
        scores[:, 0] = 0.5
        scores[:, 1] = patch[:, 0]
        return scores


def test_a_box_found_first_holds_all_labels_and_the_whole_cts_grey_values_count(ct):
    changed = plans(normalization_schemes=["ZScoreNormalization"])
    seeing = stage([brighter_than_0], changed)
    whole = segment_with_nnunet(ct, seeing)
    found = segment_with_nnunet(ct, seeing, coarse=Box(), margin_mm=1.0)
    inside = found.roi.slices
    assert found.roi.shape_zyx < ct.shape_zyx
    assert found.coarse.shape_zyx == (4, 4, 4)
    outside = found.label_map_zyx.copy()
    outside[inside] = 0
    assert not outside.any()
    assert 0 < found.label_map_zyx[inside].mean() < 1
    # the grid of the box differs from that of the whole by less than a voxel
    assert (found.label_map_zyx[inside] == whole.label_map_zyx[inside]).mean() > 0.95


def test_a_box_smaller_than_a_patch_grows_to_it_along_the_cts_own_axes_as_far_as_the_ct_reaches(ct):
    small = segment_with_nnunet(ct, stage(), coarse=Box(), margin_mm=0.0).roi
    # the net's axes are the file's j, k, i: 12 voxels of 2.5 mm along y, 16 of 3.1 along z, 20 of 2.2 along x
    assert ct.shape_zyx == (18, 22, 29)
    assert small.shape_zyx == (18, math.ceil(30 / 2.3), math.ceil(44 / 1.9))
    fine = replace(stage().plans, spacing_mm=(1.0, 1.0, 1.0))
    tiny = stage()
    tiny.plans = fine
    assert segment_with_nnunet(ct, tiny, coarse=Box(), margin_mm=0.0).roi.shape_zyx < small.shape_zyx


def test_every_step_is_timed_and_told_by_its_name_and_tiles_lie_as_asked(ct):
    def run(**how):
        calls = []
        steps = segment_with_nnunet(ct, stage(), progress=lambda *call: calls.append(call), **how).seconds
        return list(steps), calls

    first, last = ["grey values"], ["nnU-Net preprocessing", "nnU-Net net, resize + argmax", "paste", "doubts"]
    steps, calls = run()
    assert steps == [*first, *last]
    assert calls == [("nnU-Net", k + 1, len(calls)) for k in range(len(calls))]
    assert len(calls) == len(run(tile_step=0.5)[1]) > len(run(tile_step=1.0)[1])
    steps, calls = run(coarse=Box())
    assert steps == [*first, "coarse preprocessing", "coarse net", "coarse clean-up", *last]
    assert calls[0] == ("coarse", 1, 1)
    near, as_usual, far = (
        segment_with_nnunet(ct, stage(), coarse=Box(), **how).roi.shape_zyx
        for how in ({"margin_mm": 0.0}, {}, {"margin_mm": 20.0})
    )
    assert near < as_usual == far


@pytest.mark.parametrize("coarse", [None, Box()])
def test_tiles_fitted_to_the_image_are_what_the_nets_are_shown(ct, coarse):
    def run(fit_tiles):
        shown = []
        nets = stage([lambda patch: shown.append(tuple(patch.shape[2:])) or brighter_than_0(patch)])
        assert nets.size_multiple == (2, 4, 4)
        labels = segment_with_nnunet(ct, nets, coarse=coarse, margin_mm=10.0, fit_tiles=fit_tiles).label_map_zyx
        assert nets.patch_size == (12, 16, 20)
        return labels, shown

    (labels, patches), (same, larger) = run(1.0), run(2.0)
    np.testing.assert_array_equal(same, labels)
    assert 0 < labels.mean() < 1
    assert set(patches) == {(12, 16, 20)}
    [size] = set(larger)
    assert all(n % multiple == 0 for n, multiple in zip(size, (2, 4, 4), strict=True))
    assert size > (12, 16, 20)
    assert len(larger) < len(patches)
    assert np.prod(size) <= 2 * 12 * 16 * 20


def test_openvinos_nets_are_compiled_for_fitted_tiles(ct):
    nets = [small_net(seed) for seed in (0, 1)]
    folds = tuple(Fold(str(n), net, net.finest) for n, net in enumerate(nets))
    model = NnunetModel(read_plans(PLANS, DATASET, "3d_fullres"), folds)
    ours, theirs = (
        segment_with_nnunet(ct, NnunetStage(model, precision="float32", engine=engine), fit_tiles=2.0).label_map_zyx
        for engine in ("torch", "openvino")
    )
    assert (ours != theirs).mean() < 0.001


def test_a_ct_of_0_everywhere_is_looked_at_as_a_whole(ct):
    flat = ct.with_array(np.zeros(ct.shape_zyx, np.int16))
    result = segment_with_nnunet(flat, stage([lambda patch: brighter_than_0(patch + 1)]))
    assert result.roi.shape_zyx == ct.shape_zyx
    assert result.label_map_zyx.all()


def test_an_engine_that_does_not_exist_is_refused():
    model = NnunetModel(read_plans(PLANS, DATASET, "3d_fullres"), ())
    with pytest.raises(ValueError, match="steam"):
        NnunetStage(model, engine="steam")
    with pytest.raises(ValueError, match="int3"):
        NnunetStage(model, precision="int3")


def test_padding_of_0_all_around_is_not_looked_at(ct):
    padded = ct.with_array(np.where(np.arange(ct.shape_zyx[2]) < 5, 0, np.where(ct.array_zyx == 0, 1, ct.array_zyx)))
    result = segment_with_nnunet(padded, stage([lambda patch: -brighter_than_0(patch)]))
    assert result.roi.start_zyx == (0, 0, 5)
    assert not result.label_map_zyx[:, :, :5].any()


def test_anatomy_is_doubted_for_flares_organs_alone(ct):
    def nothing(patch):
        scores = torch.zeros((1, N_CLASSES, *patch.shape[2:]))
        scores[:, 0] = 1
        return scores

    organs = {**DATASET, "labels": {"background": 0, **{name: label for label, name in ORGAN_NAMES.items()}}}
    assert "none of the 13 organs was found" in segment_with_nnunet(ct, stage([nothing], dataset=organs)).notes[0]
    assert segment_with_nnunet(ct, stage([nothing])).notes == ()
