"""A DICOM series as a volume: every slice is read to its place, or refused by name.

    folder or .zip -> files (`dicom_folder`) -> series (`dicom_series`, `dicom_choice`)
    -> stack (`dicom_stack`) -> HU -> volume

Reference: DICOM PS3.3, C.7.6.2 (image plane) and C.11.1 (from stored values to HU).
"""

from itertools import groupby
from pathlib import Path

import numpy as np

from flare_lib.ct.dicom_choice import choose_series
from flare_lib.ct.dicom_headers import Header, quiet
from flare_lib.ct.dicom_pixels import hu_of, read_frames
from flare_lib.ct.dicom_series import find_series
from flare_lib.ct.dicom_stack import Stack, first_row
from flare_lib.ct.volume import FileGrid, Volume, place_in_world

_AIR_HU = -1024


def load_dicom(path: Path, series: str | None = None) -> Volume:
    """Load a CT from a folder or a .zip archive, on its series' own grid, converted from LPS to RAS.

    The only CT series that can be loaded is taken, or the one that `series` names. The array is int16 or float32, as in
    `load_ct`; each slice has its own slope and intercept, and padding that its header declares is dark. Identical
    copies of a slice count once. Slices of a tilted gantry are shifted to lie straight above one another; the notes say
    so, and name what was passed over. `path` may also be a DICOMDIR, which stands for its folder, or a single
    multi-frame file. Raises ValueError, in one line, for anything but a complete CT series.
    """
    with quiet():
        chosen, notes = choose_series(find_series(path), path, series)
        stack = chosen.stack
        if stack is None:
            raise ValueError(f"{path} must hold a CT series, got {chosen}")
        if stack.slices[0].path == path and len(stack.slices) == 1:
            raise ValueError(f"a CT must be a folder with all slices of a series, or a multi-frame file, got {path}")
        hu_zyx = _read_hu(stack.slices)
    if stack.tilt_rows:
        hu_zyx = straightened(hu_zyx, stack.tilt_rows)
        notes += (_tilt_note(stack, hu_zyx.shape[1]),)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stack.affine
    grid = FileGrid(hu_zyx.shape[::-1], affine, slices=stack.slices, tilt_rows=stack.tilt_rows)
    return place_in_world(hu_zyx.T, grid, path, notes)


def _read_hu(slices: tuple[Header, ...]) -> np.ndarray:
    """Return the HU of slices in their order (slices, rows, columns); each file is read once, however many frames."""
    numbered = sorted(enumerate(slices), key=lambda at: (str(at[1].path), at[1].frame))
    hu_zyx = np.empty(0, np.int16)
    for _, of_file in groupby(numbered, key=lambda at: str(at[1].path)):
        members = list(of_file)
        frames = read_frames(members[0][1])
        for k, header in members:
            slice_hu = hu_of(header, frames[header.frame])
            if not hu_zyx.size:
                hu_zyx = np.empty((len(slices), *slice_hu.shape), slice_hu.dtype)
            if slice_hu.dtype != hu_zyx.dtype:
                hu_zyx = hu_zyx.astype(np.float32, copy=False)
            hu_zyx[k] = slice_hu
    return hu_zyx


def straightened(hu_zyx: np.ndarray, tilt_rows: float) -> np.ndarray:
    """Return slices (slices, rows, columns) shifted along their columns to lie straight above one another.

    Slice k lies `tilt_rows` * k rows further along than the first. Values between two rows are interpolated linearly
    (rounded, if they are integers); air fills what no slice covers. The result has the dtype of the CT, and as many
    additional rows as the first and the last slice are apart.
    """
    n, rows, columns = hu_zyx.shape
    low = first_row(tilt_rows, n)
    more = int(np.ceil(abs(tilt_rows) * (n - 1)))
    straight = np.full((n, rows + more, columns), min(_AIR_HU, hu_zyx.min()), hu_zyx.dtype)
    for k in range(n):
        shift = k * tilt_rows - low  # of the slice's row 0, in rows of the result
        at = int(np.ceil(shift))
        part = at - shift  # of the way from one row to the next
        values = hu_zyx[k].astype(np.float32)
        if part > 0:
            values = (1 - part) * values[:-1] + part * values[1:]
        straight[k, at : at + len(values)] = np.rint(values) if hu_zyx.dtype.kind == "i" else values
    return straight


def on_slices(labels_zyx: np.ndarray, tilt_rows: float, rows: int) -> np.ndarray:
    """Return labels of straightened slices (slices, more rows, columns) on the tilted ones' rows, by nearest row."""
    n = len(labels_zyx)
    low = first_row(tilt_rows, n)
    starts = np.rint(np.arange(n) * tilt_rows - low).astype(int)
    return np.stack([labels[start : start + rows] for labels, start in zip(labels_zyx, starts, strict=True)])


def _tilt_note(stack: Stack, rows: int) -> str:
    was = stack.slices[0].whole("Rows")
    return (
        f"the gantry was tilted by {stack.tilt_degrees:.1f} degrees: the slices were shifted along their columns to "
        f"lie straight above one another ({rows} rows instead of {was})"
    )
