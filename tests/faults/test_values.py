"""Grey values that are not HU, and results that no person has: small files, each spoilt in one way."""

import nibabel as nib
import numpy as np
import pytest

from flare_lib.ct.files import load_ct

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


def test_a_clipped_ct_is_noted(tmp_path, flare):
    assert "clipped at -160 HU" in notes_of_info(flare, saved(tmp_path, hu().clip(-160, 240)))


def test_a_scan_of_nothing_is_noted(tmp_path, flare):
    assert "no body in this CT" in notes_of_info(flare, saved(tmp_path, np.where(hu() > -500, -990, hu())))
