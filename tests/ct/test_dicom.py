"""A DICOM series as a volume: at its place in the world, whole, and alone in its folder."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from grids import random_hu, refusal_of, rotation, world_values

from flare_lib.ct.dicom import on_slices, straightened
from flare_lib.ct.dicom_stack import first_row
from flare_lib.ct.files import load_ct, load_label_map, save_label_map
from flare_lib.ct.volume import to_file_axes


def _write_series(
    folder: Path,
    array_zyx: np.ndarray,
    uid: str = "1.2.826.0.1.3680043.2.1125.1",
    *,
    degrees=(0, 0, 12),
    left_out=(),
    tilt_mm=0.0,
) -> sitk.Image:
    """Write a CT series slice by slice and return it as one SimpleITK image."""
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing((0.75, 1.25, 3.0))
    image.SetOrigin((-31.0, 42.0, 7.5))
    image.SetDirection(rotation(degrees).ravel().tolist())
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in set(range(array_zyx.shape[0])) - set(left_out):
        plane = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k)) + np.array([0, tilt_mm * k, 0])
        for tag, value in {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{k + 1}",
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{p:.6f}" for p in position),
            "0020|0037": "\\".join(f"{c:.8f}" for c in rotation(degrees).T[:2].ravel()),
        }.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid[-1]}_{k:03d}.dcm"))
        writer.Execute(plane)
    return image


@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 12), (0, 0, 180), (90, 0, 0)])
def test_a_dicom_series_becomes_a_volume_at_its_place_in_the_world(tmp_path, degrees):
    array = random_hu((6, 7, 5))
    _write_series(tmp_path, array, degrees=degrees)
    volume = load_ct(tmp_path)
    assert volume.array_zyx.dtype == np.int16
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(sorted(volume.spacing_zyx_mm), (0.75, 1.25, 3.0), atol=1e-5)
    lps = np.eye(4)
    lps[:3, :3] = rotation(degrees) * (0.75, 1.25, 3.0)
    lps[:3, 3] = (-31.0, 42.0, 7.5)
    ras = np.diag([-1, -1, 1, 1]) @ lps
    np.testing.assert_allclose(volume.file_grid.affine, ras, atol=1e-5)
    assert world_values(volume.array_zyx.T, volume.affine) == world_values(array.T, ras)


def test_labels_of_a_dicom_series_lie_on_the_grid_of_the_series(tmp_path):
    (tmp_path / "series").mkdir()
    image = _write_series(tmp_path / "series", random_hu((6, 7, 5)))
    volume = load_ct(tmp_path / "series")
    labels = np.zeros(volume.shape_zyx, np.uint8)
    labels[volume.array_zyx == volume.array_zyx.max()] = 5
    save_label_map(tmp_path / "labels.nii.gz", labels, volume)
    saved = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))  # another reader, which puts NIfTI into LPS
    assert saved.GetSize() == image.GetSize()
    np.testing.assert_allclose(saved.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(saved.GetSpacing(), image.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(saved.GetDirection(), image.GetDirection(), atol=1e-5)
    brightest = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(saved) == 5, brightest == brightest.max())


def test_several_series_in_a_folder_are_refused_by_name(tmp_path):
    for uid in ("1.2.826.0.1.3680043.2.1125.1", "1.2.826.0.1.3680043.2.1125.2"):
        _write_series(tmp_path, random_hu((3, 4, 5)), uid)
    message = refusal_of(tmp_path)
    assert message.startswith("FILE must hold exactly one CT series, or --series must name one")
    assert all(f"1.2.826.0.1.3680043.2.1125.{k}" in message for k in (1, 2))


def test_a_folder_without_dicom_is_refused(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("no image here")
    assert refusal_of(tmp_path) == "FILE must hold a DICOM series, got no DICOM file"
    assert capfd.readouterr() == ("", "")


def test_a_folder_and_a_dicom_file_are_no_label_maps(tmp_path):
    assert refusal_of(tmp_path, load_label_map) == "a label map must be a .nii or .nii.gz file, got FILE"
    path = tmp_path / "labels.dcm"
    path.touch()
    told = "a label map must be a .nii or .nii.gz file, got FILE (.dcm: DICOM-SEG is written, not read)"
    assert refusal_of(path, load_label_map) == told


def test_a_dicom_series_with_a_slice_missing_is_refused(tmp_path, capfd):
    _write_series(tmp_path, random_hu((6, 7, 5)), left_out=(3,))
    assert "got one 1.5 mm off its place" in refusal_of(tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tilt_mm", [0.7, -0.7])
def test_slices_of_a_tilted_gantry_are_put_straight(tmp_path, tilt_mm):
    z, y, x = np.meshgrid(range(6), range(7), range(5), indexing="ij")
    array = (100 * y + 10 * x).astype(np.int16)  # linear along the columns: interpolation must be exact
    array += (tilt_mm / 1.25 * 100 * z).astype(np.int16)  # a gradient in the world, not in each slice
    _write_series(tmp_path, array, degrees=(0, 0, 0), tilt_mm=tilt_mm)
    volume = load_ct(tmp_path)
    straight = to_file_axes(volume.array_zyx, volume.grid).T
    assert straight.shape == (6, 7 + 3, 5)  # the last slice lies 3.5 mm off: 2.8 rows
    first = -3 if tilt_mm < 0 else 0
    expected = 100 * (np.arange(10) + first)[:, None] + 10 * np.arange(5)
    for k, slice_hu in enumerate(straight):
        inside = slice_hu != -1024
        rows = np.arange(10) + first - k * tilt_mm / 1.25
        np.testing.assert_array_equal(inside.all(axis=1), (rows > -1e-9) & (rows < 6 + 1e-9))
        np.testing.assert_allclose(slice_hu[inside], expected[inside], atol=1)
    np.testing.assert_allclose(volume.spacing_zyx_mm, (3.0, 1.25, 0.75))
    np.testing.assert_allclose(volume.grid.affine[:3, 3], (31, -42 - 1.25 * first, 7.5))
    degrees = np.degrees(np.arctan(0.7 / 3))
    assert volume.notes == (
        f"the gantry was tilted by {degrees:.1f} degrees: the slices were shifted along their columns to lie straight "
        "above one another (10 rows instead of 7)",
    )


@pytest.mark.parametrize("tilt_rows", [0.56, -0.56, 1.0])
def test_labels_of_straight_slices_go_back_to_where_the_slices_lay(tilt_rows):
    labels = np.random.default_rng(3).integers(0, 14, (6, 7, 5)).astype(np.int16)
    shifts = np.arange(6) * tilt_rows - first_row(tilt_rows, 6)
    straight = np.zeros((6, 7 + int(np.ceil(abs(tilt_rows) * 5)), 5), np.int16)
    for k, shift in enumerate(np.rint(shifts).astype(int)):
        straight[k, shift : shift + 7] = labels[k]
    np.testing.assert_array_equal(on_slices(straight, tilt_rows, 7), labels)
    if tilt_rows == 1.0:
        np.testing.assert_array_equal(
            np.where(straightened(labels, 1.0) == -1024, 0, straightened(labels, 1.0)), straight
        )
