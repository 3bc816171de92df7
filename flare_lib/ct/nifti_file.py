"""A NIfTI file as a `Volume`, read once, slice by slice, straight into the final array.

Whether a file is compressed is decided by its first bytes. What its header declares is compared with its size before
anything is allocated, and it is read to its end: only a little padding may follow the voxels.
References: NIfTI-1 and NIfTI-2 (nifti.nimh.nih.gov), RFC 1952 (gzip).
"""

import io
import os
import re
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np

from flare_lib.ct.gzip_stream import MAGIC, MOST_PER_BYTE, GzipStream
from flare_lib.ct.nifti_header import VoxelLayout, file_grid, header_size, read_header, voxel_layout
from flare_lib.ct.rescale import stack_slices
from flare_lib.ct.volume import Volume, empty_in_file_axes, place_in_world

SUFFIXES = (".nii", ".nii.gz")

_NIFTI_1_HEADER_BYTES = 348
_PADDING_BYTES = 512  # one block of a tape or disk
_CHUNK_BYTES = 64 * 1024

_CORRECTED = ("_Tilt_Eq", "_Tilt", "_Eq")  # what dcm2niix calls a CT whose slices it has moved

_LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL
_CALLED_LABELS = re.compile(
    r"(?<![a-z])(seg|segs|segmentations?|labels?|labelmap|masks?|gt|ground[ _-]?truth|annotations?)(?![a-z])"
)


def load_nifti(path: Path, dtypes: tuple[type, ...]) -> Volume:
    """Load a .nii or .nii.gz file as the first of `dtypes` (an integer dtype, then perhaps float32) that loses nothing.

    Raises FileNotFoundError for a missing file and ValueError, in one line, for one that is not a complete 3-D image.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"an image must exist to be loaded, got {path}")
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"an image must be a .nii or .nii.gz file, or a folder or .zip that holds DICOM, got {path}")
    if os.path.isdir(path):
        raise ValueError(f"an image whose name ends in .nii or .nii.gz must be a file, got the folder {path}")
    if not os.path.isfile(path):  # a link that leads nowhere, a pipe
        raise FileNotFoundError(f"an image must exist to be loaded, got {path}")
    try:
        with open(path, "rb", buffering=0) as file:
            return _load(_inflated(file), os.fstat(file.fileno()).st_size, path, dtypes)
    except PermissionError as error:
        raise ValueError(f"{path} must be a file that can be read, got: {error.strerror}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a complete NIfTI file, got: {' '.join(str(error).split())}") from error


def is_label_map(path: Path) -> bool:
    """Return whether a NIfTI file is a label map, not a CT; False for one that cannot be read.

    It is one if its voxels are bytes that no scaling takes below 0: there is no air in it. A file whose header's intent
    or whose name (`case_seg.nii.gz`, `mask.nii`) says so is read: all must be whole numbers from 0 to 255.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            header = _read_header(_inflated(file), path)
        layout = voxel_layout(header, path)
        if layout.dtype == np.uint8 and layout.intercept + min(0.0, 255 * layout.slope) >= 0:
            return True
        if header["intent_code"] == _LABEL_INTENT or _CALLED_LABELS.search(path.name.lower()):
            load_nifti(path, (np.uint8,))  # of a CT, no more than the first slice is read
            return True
    except (ValueError, OSError, EOFError, MemoryError, zlib.error):
        pass  # loading it as a CT will say what is wrong
    return False


def _inflated(file: io.FileIO) -> io.RawIOBase:
    """Return a file's own stream, or what it inflates to if it is compressed."""
    compressed = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return GzipStream(file) if compressed else file


def _read_header(stream: io.RawIOBase, path: Path) -> nib.Nifti1Header:
    block = _read(stream, _NIFTI_1_HEADER_BYTES)
    block += _read(stream, header_size(block, path) - len(block))
    return read_header(block, path)


def _load(stream: io.RawIOBase, file_bytes: int, path: Path, dtypes: tuple[type, ...]) -> Volume:
    """Load an image from a stream, possibly compressed, that comes from a file of `file_bytes` bytes."""
    header = _read_header(stream, path)
    layout = voxel_layout(header, path)
    declared_bytes = layout.offset_bytes + layout.size_bytes
    most_bytes = file_bytes * (MOST_PER_BYTE if isinstance(stream, GzipStream) else 1)
    if declared_bytes > most_bytes:
        raise ValueError(
            f"{path} must be a complete NIfTI file, {declared_bytes:,} bytes as its header declares, got "
            + (f"{file_bytes:,}" if most_bytes == file_bytes else f"{file_bytes:,} compressed, {most_bytes:,} at most")
        )
    grid = file_grid(header, layout.shape_xyz, path)
    _skip(stream, layout.offset_bytes - header.sizeof_hdr)

    array_xyz = stack_slices(
        _slices(stream, layout),
        lambda dtype: empty_in_file_axes(grid, dtype),
        (layout.slope, layout.intercept),
        dtypes,
        path,
    )
    _check_end(stream, path)
    return place_in_world(array_xyz, grid, path, _corrected_beside(path))


def _corrected_beside(path: Path) -> tuple[str, ...]:
    """Return a note if dcm2niix wrote another file beside this one, in which slices lie where they are said to lie.

    It writes the slices of a tilted gantry, or unevenly spaced ones, as they come, in a header that can say neither,
    and beside it a file resampled to a straight, even grid. Reference: FILENAMING.md of dcm2niix.
    """
    stem = path.name[: -len(next(suffix for suffix in reversed(SUFFIXES) if path.name.lower().endswith(suffix)))]
    for made, counted, suffix in product(_CORRECTED, ("", "_1"), SUFFIXES):
        other = f"{stem}{made}{counted}{suffix}"
        if os.path.isfile(path.with_name(other)):  # a Path raises for a name that no file can have
            return (f"its slices may be tilted or unevenly spaced: {other}, beside it, is corrected for that",)
    return ()


def _slices(stream: io.RawIOBase, layout: VoxelLayout) -> Iterator[np.ndarray]:
    """Yield the slices along the file's third axis, as stored; each overwrites the one before."""
    n_x, n_y, n_z = layout.shape_xyz
    stored = np.empty(n_x * n_y * layout.dtype.itemsize, np.uint8)
    view, slice_yx = memoryview(stored.data), stored.view(layout.dtype).reshape(n_y, n_x)
    for k in range(n_z):
        n_read = _fill(stream, view)
        if n_read < stored.size:
            raise EOFError(f"{k * stored.size + n_read:,} bytes of voxels instead of {layout.size_bytes:,}")
        yield slice_yx.T


def _check_end(stream: io.RawIOBase, path: Path) -> None:
    """Read to the end, where the checksum is compared; ValueError for more than padding after the voxels."""
    rest = _read(stream, _PADDING_BYTES + 1)
    if len(rest) > _PADDING_BYTES or rest.strip(b"\0"):
        raise ValueError(
            f"{path} must end with the last voxel that its header declares, got more: is the header damaged?"
        )


def _fill(stream: io.RawIOBase, view: memoryview) -> int:
    """Fill a view from a stream; return how many bytes were read, fewer only at the end of the stream."""
    filled = 0
    while filled < len(view) and (n_read := stream.readinto(view[filled:])):
        filled += n_read
    return filled


def _read(stream: io.RawIOBase, n_bytes: int) -> bytes:
    """Return the next bytes of a stream, fewer than asked for only at its end."""
    buffer = bytearray(n_bytes)
    return bytes(buffer[: _fill(stream, memoryview(buffer))])


def _skip(stream: io.RawIOBase, n_bytes: int) -> None:
    """Read past some bytes: the header's extensions."""
    while n_bytes > 0 and (read := _read(stream, min(n_bytes, _CHUNK_BYTES))):
        n_bytes -= len(read)
