"""What a NIfTI header says, checked: how the voxels lie in the file, and how the image lies in the patient.

Damaged or contradictory headers are more common than one might think, and each reader then guesses in its own way. What
all readers agree on is accepted; the rest is refused, in one line.
References: nifti1.h and nifti2.h (nifti.nimh.nih.gov).
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from flare_lib.ct.volume import FileGrid, Shape, check_grid, check_plausible, three_axes

_DATA_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_OTHER_DATA_TYPES = {
    **{0: "unknown", 1: "binary", 32: "complex64", 128: "RGB", 1536: "float128"},
    **{1792: "complex128", 2048: "complex256", 2304: "RGBA"},
}
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metre and micrometre; millimetre and unknown units are 1
_UNITS_OF_SPACE = 0b111

# An sform and a qform of the same space may differ by rounding errors only. Of two spaces (the scanner's and an atlas),
# they may differ by a rotation, as long as each axis keeps its name: nothing here is rotated, but left must stay left.
_DEGREES_IN_ONE_SPACE = 2.0
_DEGREES_BETWEEN_SPACES = 45.0
_LENGTHS_DIFFER = 0.01

_NEVER = logging.CRITICAL + 1
_NOWHERE = np.full((4, 4), np.nan)

_FOREIGN = (
    (b"\x1f\x8b", "a gzip stream within a gzip stream"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file it stands for"),
    (b"/annex/objects", "a pointer of git-annex instead of the file it stands for"),
    (b"NRRD", "an NRRD file"),
    (b"ObjectType", "a MetaImage"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"<", "a web page, or other markup"),
    (b"{", "JSON"),
)


@dataclass(frozen=True)
class VoxelLayout:
    """How voxels lie in a file, and what turns them into values.

    `offset_bytes`: where they start; `dtype`: as they are stored, with its byte order; `slope` and `intercept`.
    """

    offset_bytes: int
    shape_xyz: Shape
    dtype: np.dtype
    slope: float
    intercept: float

    @property
    def size_bytes(self) -> int:
        """The size of all voxels in bytes, exact however many the header claims."""
        return math.prod(self.shape_xyz) * self.dtype.itemsize


def header_size(start: bytes, path: Path) -> int:
    """Return the size in bytes of the NIfTI header that starts with these 348 bytes; ValueError if they are not one."""
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        size = header_class.sizeof_hdr
        if start[:4] in (size.to_bytes(4, "little"), size.to_bytes(4, "big")):
            return size
    raise ValueError(f"{path} must be a NIfTI-1 or NIfTI-2 file, got {_name_of(start)}")


def read_header(block: bytes, path: Path) -> nib.Nifti1Header:
    """Return the header in a block of `header_size` bytes, unchanged; ValueError if it is cut or belongs to a pair."""
    header_class = nib.Nifti2Header if header_size(block, path) == nib.Nifti2Header.sizeof_hdr else nib.Nifti1Header
    if len(block) < header_class.sizeof_hdr:
        raise ValueError(f"{path} must be a complete NIfTI file, got {len(block)} bytes of its header")
    byte_order = "<" if block[0] else ">"
    header = header_class(block, endianness=byte_order, check=False)
    magic = header["magic"].item()
    if magic == header_class.pair_magic:
        raise ValueError(f"{path} must be one file, got the header of a pair (.hdr and .img): convert it to .nii")
    if magic != header_class.single_magic:
        raise ValueError(
            f"{path} must be a NIfTI-1 or NIfTI-2 file, got magic {magic!r}: Analyze 7.5, which does not tell left from"
            " right, or a damaged header"
        )
    line_ends = bytes(header["eol_check"]) if header_class is nib.Nifti2Header else bytes(4)
    if line_ends not in (b"\r\n\x1a\n", bytes(4)):
        raise ValueError(f"{path} must be unaltered, got line ends {line_ends!r}: was it transferred as text?")
    return header


def voxel_layout(header: nib.Nifti1Header, path: Path) -> VoxelLayout:
    """Return how a file's voxels lie in it; ValueError if they are not 3-D, not real numbers, or not possible."""
    n_axes = int(header["dim"][0])
    if not 1 <= n_axes <= 7:
        raise ValueError(f"{path} must be a 3-D image, got a header of {n_axes} axes")
    shape = three_axes(tuple(header["dim"][1 : n_axes + 1].tolist()), path)

    code, n_bits = int(header["datatype"]), int(header["bitpix"])
    if code not in _DATA_TYPES:
        name = _OTHER_DATA_TYPES.get(code, "not one of NIfTI's")
        raise ValueError(f"{path} must hold one real number per voxel, got data type {code} ({name})")
    dtype = np.dtype(_DATA_TYPES[code]).newbyteorder(header.endianness)
    if n_bits not in (0, 8 * dtype.itemsize):
        raise ValueError(
            f"the header of {path} must not contradict itself, got {n_bits} bits per voxel and data type {code}, which "
            f"has {8 * dtype.itemsize}"
        )

    offset, least = header["vox_offset"].item(), header.single_vox_offset
    if not (math.isfinite(offset) and offset >= least and offset == int(offset)):
        raise ValueError(f"the voxels of {path} must begin at byte {least} or later, got vox_offset {offset:g}")

    slope, intercept = header["scl_slope"].item(), header["scl_inter"].item()
    if slope == 0 or math.isnan(slope):  # two ways to say that nothing is scaled: the standard's, and a common one
        slope, intercept = 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"the scaling of {path} must be finite, got scl_slope {slope:g} and scl_inter {intercept:g}")
    return VoxelLayout(int(offset), shape, dtype, slope, intercept)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # absurd numbers are checked for below
def file_grid(header: nib.Nifti1Header, shape_xyz: Shape, path: Path) -> FileGrid:
    """Return an image's grid in mm, with the header to write when something is saved on the same grid.

    The sform places the image, as the standard says, or the qform if there is no sform or if it says nothing (zeros,
    not finite). Raises ValueError if neither says how the image lies in the patient, if they contradict each other
    about directions, if the spacing contradicts the sform's, and for a grid that no CT has.
    """
    mm = _MM_PER_UNIT.get(int(header["xyzt_units"]) & _UNITS_OF_SPACE, 1.0)
    spacing = header["pixdim"][1:4].astype(np.float64)
    check_plausible(shape_xyz, np.abs(spacing) * mm, path)
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    if max(codes.values()) <= 0:
        raise ValueError(f"{path} must say how it lies in the patient (sform or qform), got neither: left is unknown")
    if max(codes.values()) > 5:
        raise ValueError(f"sform_code and qform_code of {path} must be 0 to 5, got {codes['sform']}, {codes['qform']}")
    qfac = header["pixdim"][0]
    header = header.copy()
    # mends signs and codes for the next reader; what cannot be mended was refused above
    header.check_fix(logger=logging.Logger("quiet", _NEVER), error_level=_NEVER)
    forms = {"sform": header.get_sform(), "qform": _qform(header) if qfac in (-1, 0, 1) else _NOWHERE}
    usable = [name for name in forms if codes[name] > 0 and _says_where(forms[name])]
    if not usable:
        raise ValueError(
            f"{path} must say how it lies in the patient by an sform or qform that is finite, with 3 axes longer "
            f"than 0, got sform {_said(forms['sform'], codes['sform'])}, qform {_said(forms['qform'], codes['qform'])}"
        )
    if len(usable) == 2:
        _check_that_forms_agree(forms, codes, path)
    affine = forms[usable[0]]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if usable == ["qform"] and spacing.min() < 0:
        raise ValueError(f"the spacing in {path} must be positive where only a qform uses it, got {_triple(spacing)}")
    if (np.abs(lengths - np.abs(spacing)) > _LENGTHS_DIFFER * lengths).any():
        raise ValueError(
            f"the spacing in {path} must be that of its sform, got {_triple(spacing)} and {_triple(lengths)} (x, y, z)"
        )
    grid = FileGrid(shape_xyz, np.diag([mm, mm, mm, 1.0]) @ affine, header)
    check_grid(grid, path)
    return grid


def _qform(header: nib.Nifti1Header) -> np.ndarray:
    """Return the qform's affine, NaN if its quaternion is not a rotation."""
    try:
        return header.get_qform()
    except ValueError:
        return _NOWHERE


def _says_where(form: np.ndarray) -> bool:
    """Return whether an affine places anything: it is finite, and its axes are longer than 0."""
    return bool(np.isfinite(form).all() and form[:3, :3].any(axis=0).all())


def _directions(form: np.ndarray) -> np.ndarray:
    """Return the directions of an affine's axes as columns of length 1, however long the axes are."""
    axes = form[:3, :3] / np.abs(form[:3, :3]).max(axis=0)  # so that no square overflows
    return axes / np.linalg.norm(axes, axis=0)


def _check_that_forms_agree(forms: dict[str, np.ndarray], codes: dict[str, int], path: Path) -> None:
    """Raise ValueError if sform and qform point an axis of the file in different directions."""
    along_s, along_q = map(_directions, forms.values())
    degrees = math.degrees(math.acos(np.clip((along_s * along_q).sum(axis=0).min(), -1.0, 1.0)))
    if degrees > (_DEGREES_IN_ONE_SPACE if codes["sform"] == codes["qform"] else _DEGREES_BETWEEN_SPACES):
        s, q = ("".join(nib.aff2axcodes(form)) for form in forms.values())
        raise ValueError(
            f"the sform and the qform of {path} must agree on where the patient's left is, got axes {degrees:.1f} "
            f"degrees apart (sform {s}, qform {q})"
        )


def _said(form: np.ndarray, code: int) -> str:
    """Return an affine's rows as text for a message, or say that there is none."""
    return str(form[:3].tolist()) if code > 0 else "none"


def _triple(numbers: np.ndarray) -> str:
    """Return three numbers as text for a message."""
    return "(" + ", ".join(f"{n:g}" for n in numbers) + ")"


def _name_of(start: bytes) -> str:
    """Say what a file that is not NIfTI is, judging by its first bytes."""
    if not start:
        return "an empty file"
    if not start.strip(b"\0"):
        return "nothing but zeros (an unfinished download?)"
    if start[128:132] == b"DICM":
        return "a DICOM file"
    named = (name for signature, name in _FOREIGN if start.startswith(signature))
    return next(named, f"{len(start)} bytes, too few for its header" if len(start) < 348 else "another header")
