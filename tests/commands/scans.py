"""A small CT with two organs, and how a command refuses: what the tests of this folder share."""

import nibabel as nib
import numpy as np

from flare_lib.ct.labels import organ

SHAPE_XYZ = (7, 6, 5)
# axes towards left, front, head as in many a hospital's file (LPS would be left, back, head); spacings all different
AFFINE = np.array([[-1.5, 0.0, 0.0, 40.0], [0.0, 2.0, 0.0, -30.0], [0.0, 0.0, 3.0, 10.0], [0.0, 0.0, 0.0, 1.0]])
VOXEL_ML = 1.5 * 2.0 * 3.0 / 1000


def grey_values(shape=SHAPE_XYZ):
    """Air, and in the middle something soft."""
    values = np.full(shape, -1000, np.int16)
    values[tuple(slice(1, n - 1) for n in shape)] = 40
    return values


def save(path, values, affine=AFFINE):
    nib.Nifti1Image(values, affine).to_filename(path)
    return path


def labels_zyx():
    """Two organs: 6 voxels of liver, 2 of the aorta."""
    labels = np.zeros(SHAPE_XYZ[::-1], np.uint8)
    labels[1:4, 2, 1:3] = organ("liver").id
    labels[1:3, 3, 3] = organ("aorta").id
    return labels


def save_labels(path, labels, affine=AFFINE):
    """Save canonical ZYX labels in the axes of the test's files, which run to the left."""
    return save(path, np.ascontiguousarray(labels.T[::-1]), affine)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_refused(answer, message):
    code, out, err = answer
    assert code == 2
    assert out == []
    assert len(err) == 1, err
    assert err[0].startswith("error: ")
    assert message in err[0]
