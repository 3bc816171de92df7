"""Grey values that are not HU, and results that no person has: small files, each spoilt in one way."""

import nibabel as nib
import numpy as np
import pytest

from flare_lib.ct.files import load_ct
from flare_lib.ct.labels import organ
from flare_lib.ct.volume import Volume
from flare_lib.data.cohort import Case, check_case
from flare_lib.inference.plausibility import anatomy_doubts

SHAPE_XYZ = (52, 40, 16)
AFFINE = np.diag([4.0, 5.0, 6.0, 1.0])


def hu():
    """A body of fat and soft tissue with a spine in air, as a scanner shows it."""
    x, y, z = np.indices(SHAPE_XYZ)
    radius = np.hypot((x - 25) / 22, (y - 19) / 16)
    values = np.select([radius < 0.75, radius < 1], [45.0, -100.0], -1000.0)
    values[23:28, 8:12] = 350 + 10 * z[23:28, 8:12]
    return np.maximum(values + np.random.default_rng(0).normal(0, 12, SHAPE_XYZ), -1024).round()


def padded(values, padding):
    x, y, _ = np.indices(SHAPE_XYZ)
    return np.where(np.hypot(x / SHAPE_XYZ[0] - 0.5, y / SHAPE_XYZ[1] - 0.5) > 0.5, padding, values)


def saved(folder, values, dtype=np.int16):
    path = folder / "ct.nii.gz"
    nib.Nifti1Image(np.asarray(values).astype(dtype), AFFINE).to_filename(path)
    return path


def refusal(folder, values, dtype=np.int16):
    path = saved(folder, values, dtype)
    with pytest.raises(ValueError, match="must be a CT in HU") as refused:
        load_ct(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return str(refused.value)


def notes_of_info(flare, path):
    code, _, err = flare("info", path)
    assert code == 0
    assert all(line.startswith("note: ") for line in err)
    return " ".join(err)


def test_padding_outside_the_circle_is_met(tmp_path, flare):
    for padding in (-1024, -2000, -3024, -32768):
        assert notes_of_info(flare, saved(tmp_path, padded(hu(), padding))) == ""


def test_padding_of_0_is_noted(tmp_path, flare):
    assert "exactly 0 HU" in notes_of_info(flare, saved(tmp_path, padded(hu(), 0)))


def test_padding_brighter_than_bone_is_refused(tmp_path):
    for padding in (3071, 32767, 65535):  # the highest numbers of 12 and 16 bits
        told = refusal(tmp_path, padded(hu(), padding), np.int32)
        share = (padded(hu(), padding) == padding).mean()
        assert f"must look like air (-1024), got {padding} in {share:.0%} of the voxels" in told


def test_a_lost_intercept_is_named(tmp_path):
    assert "(air lies at 2" in refusal(tmp_path, hu() + 1024)
    assert "is the intercept -1024 missing?" in refusal(tmp_path, hu() + 1024)


def test_a_lost_intercept_behind_padding_is_named(tmp_path):
    assert "is the intercept -1024 missing?" in refusal(tmp_path, padded(hu().clip(-1000) + 1024, -2000))


def test_a_lost_intercept_behind_noise_is_named(tmp_path):
    assert "is the intercept -1024 missing?" in refusal(tmp_path, hu() + 1024 - 30 * (hu() < -1015))


def test_an_intercept_added_twice_is_named(tmp_path):
    assert "was the intercept -1024 added twice?" in refusal(tmp_path, hu() - 1024)


def test_an_inverted_ct_is_named(tmp_path):
    assert "is the image inverted?" in refusal(tmp_path, -hu())


def test_scaled_values_are_named(tmp_path):
    assert "are the values 10 times too large?" in refusal(tmp_path, hu() * 10)
    assert "are the values 2 times too small?" in refusal(tmp_path, hu() // 2)
    assert "is the slope 0.5 missing?" in refusal(tmp_path, (hu() + 1024) * 2 - 1024)
    assert "1000 times too small" in refusal(tmp_path, hu() / 1000, np.float32)


def test_normalised_images_are_named(tmp_path):
    window = (hu().clip(-160, 240) + 160) / 400
    assert "already normalised?" in refusal(tmp_path, window, np.float32)
    assert "already normalised" in refusal(tmp_path, (hu() - hu().mean()) / hu().std(), np.float32)
    assert "an 8-bit image?" in refusal(tmp_path, window * 255, np.uint8)


def test_a_label_map_in_place_of_a_ct_is_named(tmp_path):
    assert "a label map" in refusal(tmp_path, (hu() > -500) * 5)
    assert "a label map" in refusal(tmp_path, (hu() > -500) * 6 - 1)


def test_magnetic_resonance_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    body = rng.gamma(6, 90, SHAPE_XYZ)
    refusal(tmp_path, np.where(hu() > -500, body, np.abs(rng.normal(0, 9, SHAPE_XYZ))))
    refusal(tmp_path, np.where(hu() > -500, body, rng.normal(0, 12, SHAPE_XYZ)))


def test_emission_is_refused(tmp_path):
    uptake = np.random.default_rng(0).gamma(2, 0.8, SHAPE_XYZ)
    refusal(tmp_path, np.where(hu() > -500, uptake, 0), np.float32)


def test_a_constant_image_is_refused(tmp_path):
    assert "must differ" in refusal(tmp_path, np.full(SHAPE_XYZ, -37))
    refusal(tmp_path, np.zeros(SHAPE_XYZ))


def test_a_field_without_air_is_right(tmp_path, flare):
    tight = hu()[14:37, 8:31]
    assert tight.min() > -300
    assert notes_of_info(flare, saved(tmp_path, tight)) == ""


def test_metal_is_right(tmp_path, flare):
    metal = np.random.default_rng(1).random(SHAPE_XYZ) < 0.01
    for full in (3071, 30000):
        assert notes_of_info(flare, saved(tmp_path, np.where(metal, full, hu()))) == ""


def test_a_water_phantom_is_right(tmp_path, flare):
    assert notes_of_info(flare, saved(tmp_path, np.where(hu() > -500, 3, hu()))) == ""


def test_a_small_offset_is_noted(tmp_path, flare):
    assert "are all values about 1" in notes_of_info(flare, saved(tmp_path, hu() + 180))


def test_values_that_wrapped_around_are_noted(tmp_path, flare):
    wrapped = hu().astype(np.float32)
    wrapped[2, 3, 4:6] = 65530 - 1024  # -6 as 16 bits without a sign
    assert "reach 64506 HU: did values below the lowest that fits wrap around?" in notes_of_info(
        flare, saved(tmp_path, wrapped, np.float32)
    )


def test_a_clipped_ct_is_noted(tmp_path, flare):
    assert "clipped at -160 HU" in notes_of_info(flare, saved(tmp_path, hu().clip(-160, 240)))


def test_a_scan_of_nothing_is_noted(tmp_path, flare):
    assert "no body in this CT" in notes_of_info(flare, saved(tmp_path, np.where(hu() > -500, -990, hu())))


def note(labels, spacing_zyx_mm=(6.0, 5.0, 4.0)):
    ct = Volume.from_array(np.zeros(labels.shape, np.int16), spacing_zyx_mm)
    return " ".join(anatomy_doubts(ct, labels))


def organs(**boxes):
    """A label map (z, y, x) with a box for each of these organs."""
    labels = np.zeros((40, 40, 52), np.uint8)
    for name, (z, y, x) in boxes.items():
        labels[z : z + 12, y : y + 14, x : x + 12] = organ(name.replace("_", " ")).id
    return labels


UPRIGHT = {
    "liver": (20, 15, 35),
    "spleen": (21, 5, 5),
    "right_kidney": (6, 2, 36),
    "left_kidney": (7, 5, 5),
}


def test_a_result_without_organs_is_noted():
    assert "none of the 13 organs was found" in note(organs())


def test_a_mirrored_result_is_noted():
    assert "to the left of" not in note(organs(**UPRIGHT))
    assert "the liver lies to the left of the spleen: is the CT mirrored?" in note(organs(**UPRIGHT)[:, :, ::-1])


def test_a_result_upside_down_is_noted():
    assert "upside down" not in note(organs(**UPRIGHT))
    assert "the kidneys lie above the liver: is the CT upside down?" in note(organs(**UPRIGHT)[::-1])


def test_a_volume_that_nobody_has_is_noted():
    assert "has 30 mL, outside the 200 to 6000 mL that people have" in note(organs(**UPRIGHT), (3.0, 2.5, 2.0))


def test_a_missing_organ_is_noted():
    assert "no gallbladder was found, though the scan shows liver and right kidney" in note(organs(**UPRIGHT))


def test_an_organ_at_the_border_is_noted(tmp_path, flare):
    labels = np.zeros(SHAPE_XYZ, np.uint8)
    labels[20:30, 14:20, 12:] = organ("liver").id
    path = tmp_path / "labels.nii.gz"
    nib.Nifti1Image(labels, AFFINE).to_filename(path)
    code, out, _ = flare("measure", saved(tmp_path, hu()), path)
    assert code == 0
    assert out[1].split()[:3] == ["liver", ">=", "28.8"]
    assert out[1].endswith("at least: cut by the border")
    assert out[2].startswith("not found: right kidney, spleen")


def test_labels_of_another_ct_are_refused_by_the_livers_grey_values(tmp_path):
    labels = np.zeros(SHAPE_XYZ, np.uint8)
    labels[:4, :6] = organ("liver").id  # in the air
    path = tmp_path / "labels.nii.gz"
    nib.Nifti1Image(labels, AFFINE).to_filename(path)
    (problem,) = check_case(Case("a", saved(tmp_path, hu()), path))
    assert problem.startswith("the liver's median must lie between -30 and 200 HU, got -")
