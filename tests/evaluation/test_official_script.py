"""The challenge's script, rule by rule in plain numpy on a file's own axes, against ours: files in odd orientations."""

import warnings
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
import surface_distance as theirs

from flare_lib.ct.labels import ORGANS
from flare_lib.evaluation.cohort_scores import Pair, score_pair

SPACINGS_MM = ((0.8, 1.5, 3.0), (2.5, 0.9, 1.3), (1.1, 4.0, 0.7), (1.9, 1.9, 5.0))
LONG = ("aorta", "inferior vena cava", "esophagus")


def script_scores(prediction_path, reference_path):
    """DSC and NSD of 13 organs as the script takes them: arrays as stored, spacing of the reference's header."""
    reference_file = nib.load(reference_path)
    reference, prediction = (np.asarray(f.dataobj) for f in (reference_file, nib.load(prediction_path)))
    rows = []
    for organ in ORGANS:
        true, found = reference == organ.id, prediction == organ.id
        if not true.any():
            rows.append((0.0, 0.0) if found.any() else (1.0, 1.0))
            continue
        if organ.name in LONG:
            where = np.where(true)[2]
            true, found = true[:, :, where.min() : where.max()], found[:, :, where.min() : where.max()]
        voxels = true.sum() + found.sum()
        dice = 2 * (true & found).sum() / voxels if voxels else np.nan
        nsd = 0.0 if dice < 0.2 else script_surface_dice(true, found, reference_file.header.get_zooms(), organ)
        rows.append((round(dice, 4), round(nsd, 4)))
    return np.array(rows).T


def script_surface_dice(true, found, spacing, organ):
    if not (true.any() or found.any()):
        return np.nan
    with mock.patch.object(np, "Inf", np.inf, create=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its last release is older than numpy 2
        distances = theirs.compute_surface_distances(true, found, [float(s) for s in spacing])
    return theirs.compute_surface_dice_at_tolerance(distances, organ.tolerance_mm)


def odd_affine(rng):
    """A grid whose axes run along the patient's in any order and direction, slightly turned."""
    affine = np.eye(4)
    turned = np.linalg.qr(np.eye(3) + 0.05 * rng.standard_normal((3, 3)))[0]
    turned *= np.sign(np.diag(turned))
    axes = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine[:3, :3] = turned @ axes * SPACINGS_MM[rng.integers(len(SPACINGS_MM))]
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return affine


def two_label_maps(rng, shape=(17, 20, 23)):
    """A reference of ellipsoids, one or more organs missing or in one slice, and a prediction moved and frayed."""
    place = np.indices(shape)
    reference = np.zeros(shape, np.uint8)
    for organ in rng.permutation(13)[: rng.integers(9, 13)] + 1:
        centre, radii = rng.uniform(3, np.array(shape) - 3), rng.uniform(2.0, 6.0, 3)
        reference[((place - centre[:, None, None, None]) ** 2 / radii[:, None, None, None] ** 2).sum(axis=0) < 1] = (
            organ
        )
    moved = np.roll(reference, rng.integers(-1, 2, 3), axis=(0, 1, 2))
    prediction = np.where(rng.random(shape) < 0.04, np.uint8(0), moved)
    prediction[prediction == rng.integers(1, 14)] = 0
    reference[reference == 10] = 0
    if rng.random() < 0.3:
        reference[4:6, 4:6, 7] = 10  # in a file's third axis a single slice, of which the script leaves nothing
    return prediction, reference


@pytest.mark.parametrize("seed", range(20))
def test_all_26_scores_are_the_scripts_whatever_the_files_axes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    affine = odd_affine(rng)
    paths = [tmp_path / f"{name}.nii" for name in ("prediction", "reference")]
    for path, labels in zip(paths, two_label_maps(rng), strict=True):
        nib.Nifti1Image(labels, affine).to_filename(path)
    scores = score_pair(Pair("odd", *paths))
    np.testing.assert_array_equal(np.array([scores.dice, scores.nsd]).round(4), script_scores(*paths).round(4))


def test_the_same_label_maps_stored_upside_down_lose_another_slice(tmp_path):
    reference = np.zeros((9, 8, 12), np.uint8)
    reference[2:6, 2:6, 2:10] = 5
    prediction = reference.copy()
    prediction[:, :, 9] = 0  # the highest slice is not found: the script does not see it in a file from feet to head
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    upside_down = affine @ nib.orientations.inv_ornt_aff([[0, 1], [1, 1], [2, -1]], reference.shape)
    expected = {"feet first": (1.0, affine, 1), "head first": (round(2 * 6 / 13, 4), upside_down, -1)}
    for name, (dice, grid, step) in expected.items():
        paths = [tmp_path / f"{name}, {kind}.nii" for kind in ("prediction", "reference")]
        for path, labels in zip(paths, (prediction, reference), strict=True):
            nib.Nifti1Image(labels[:, :, ::step], grid).to_filename(path)
        assert score_pair(Pair(name, *paths)).dice[4] == dice
        assert script_scores(*paths)[0, 4] == dice


def test_a_border_one_voxel_away_is_within_a_tolerance_of_one_voxel(tmp_path):
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (3.0, 1.1, 2.3)  # in float32, the first axis is a little longer than 3 mm
    reference, prediction = (np.zeros((12, 14, 10), np.uint8) for _ in range(2))
    reference[2:6, 3:9, 2:7] = prediction[2:7, 3:9, 2:7] = 2  # the right kidney, whose tolerance is 3 mm
    paths = [tmp_path / f"{name}.nii" for name in ("prediction", "reference")]
    for path, labels in zip(paths, (prediction, reference), strict=True):
        nib.Nifti1Image(labels, affine).to_filename(path)
    columns = nib.load(paths[1]).affine[:3, 0]
    assert np.linalg.norm(columns) > 3
    assert score_pair(Pair("odd", *paths)).nsd[1] == script_scores(*paths)[1, 1] == 1
