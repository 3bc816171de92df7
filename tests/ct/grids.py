"""Grids and files that the tests of this folder share."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flare_lib.ct.files import load_ct

ORDERS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Return the rotation by these angles around x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        step = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def grid_affine(order=(0, 1, 2), signs=(1, 1, 1), degrees=(0, 0, 0), spacing=(0.75, 1.25, 3.0), origin=(-31, 42, 7.5)):
    """Return an affine whose file axis k runs along world axis order[k] in direction signs[k], then turned."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.eye(3)[:, list(order)] * np.multiply(signs, spacing)
    affine[:3, 3] = origin
    return affine.astype(np.float32).astype(np.float64)  # as a NIfTI-1 header can hold it


def random_hu(shape=(5, 7, 9), seed=0, dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 2000, shape).astype(dtype)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, image_class=nib.Nifti1Image) -> Path:
    image = image_class(array, grid_affine() if affine is None else affine)
    image.set_data_dtype(array.dtype)
    image.to_filename(path)
    return path


def world_values(array: np.ndarray, affine: np.ndarray) -> dict[tuple, float]:
    """Return {world position, rounded to 0.01 mm: value} of an array whose axes are those of the affine."""
    index = np.indices(array.shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    return {tuple(p): v for p, v in zip(np.round(world.T, 2).tolist(), array.ravel().tolist(), strict=True)}


def refusal_of(path: Path, load=load_ct) -> str:
    """Return the one line with which a file is refused, without its path."""
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        load(path)
    message = str(refusal.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "FILE")
