"""Small NIfTI files, sound but for what a test makes of them: bytes from a few header fields and voxels."""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flare_lib.ct.files import load_ct

SPACING = (7.0, 8.0, 9.0)
ORIGIN = (-60.0, -61.0, 62.0)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = ORIGIN


def body_hu(shape=(20, 18, 12)) -> np.ndarray:
    """Return int16 HU (x, y, z): soft tissue with noise in fat in air."""
    x, y, _ = np.indices(shape)
    radius = np.hypot((x - (shape[0] - 1) / 2) / shape[0], (y - (shape[1] - 1) / 2) / shape[1])
    noise = np.random.default_rng(0).normal(0, 10, shape)
    return (np.select([radius < 0.28, radius < 0.36], [45, -100], -1000) + noise).astype(np.int16)


def header(shape, dtype=np.int16, affine=AFFINE, *, version=1, byte_order="<", forms="both") -> nib.Nifti1Header:
    """Return a sound header, its voxels right behind it; `forms`: what places it, sform, qform or both."""
    header_class = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version]
    made = header_class(endianness=byte_order)
    made.set_data_shape(shape)
    made.set_data_dtype(dtype)
    made.set_xyzt_units("mm")
    made.set_qform(affine, 1 if forms in ("both", "qform") else 0)
    made.set_sform(affine, 1 if forms in ("both", "sform") else 0)
    made["vox_offset"] = made.single_vox_offset
    made.set_slope_inter(1.0, 0.0)
    return made


def nifti(
    voxels: np.ndarray | None = None, *, behind=b"", affine=AFFINE, version=1, byte_order="<", forms="both", **fields
):
    """Return a file's bytes: a header whose `fields` are overwritten as no library would, voxels, what is `behind`."""
    voxels = body_hu() if voxels is None else voxels
    made = header(voxels.shape, voxels.dtype, affine, version=version, byte_order=byte_order, forms=forms)
    for name, value in fields.items():
        made[name] = value
    stored = voxels.astype(made.get_data_dtype()) if "datatype" not in fields else voxels
    return made.binaryblock + b"\0" * 4 + stored.tobytes(order="F") + behind


def gzipped(data: bytes, level=6) -> bytes:
    return gzip.compress(data, level, mtime=0)


def inflates_too_far(data: bytes) -> bytes:
    """Return the gzip stream of `data` with one flipped bit, after which it inflates to more, without an error."""
    sound = gzipped(data)
    for at in range(len(sound) // 3, len(sound) - 8):
        damaged = bytearray(sound)
        damaged[at] ^= 1
        try:
            if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(damaged[10:]))) > len(data):
                return bytes(damaged)
        except zlib.error:
            continue
    raise LookupError("no flipped bit makes this stream inflate to more")


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: Path, load=load_ct) -> str:
    """Return the one line with which a file is refused, FILE in place of its path."""
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "FILE")
