"""A DICOM series whose last slice is damaged: what `fuzz.py dicom` loads, and how it is judged."""

import io
import struct
import warnings
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from flare_lib.ct.volume import Volume, to_file_axes
from flare_lib.synthetic.phantom import phantom_case

N = 4
_PLAIN = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
_SYNTAXES = (*_PLAIN, uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless)
_WORDS = (0, 1, 2, 7, 8, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)


@cache
def sound_slices() -> tuple[bytes, ...]:
    """Return the last slice of a series, in every transfer syntax that can be read."""
    return tuple(_slice(N - 1, syntax) for syntax in _SYNTAXES)


@cache
def _hu() -> np.ndarray:
    return phantom_case(0, shape_zyx=(N, 36, 44), spacing_zyx_mm=(24.0, 9.0, 9.0))[0].array_zyx


@cache
def _slice(k: int, syntax: str) -> bytes:
    """Return one slice as a file's bytes."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.{k + 1}"
    ds.ImageType, ds.Modality, ds.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "Abdomen"
    ds.StudyDate, ds.Manufacturer, ds.PatientName = "20200229", "None", "Nobody"
    ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.InstanceNumber = "1.2.4", "1.2.5", k + 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-190.5, -150.0, 24.0 * k], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [9.0, 8.5], 24.0
    ds.Rows, ds.Columns = _hu().shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.private_block(0x0029, "SOMEBODY", create=True).add_new(0x10, "OB", bytes(64))
    stored = (_hu()[k].astype(np.int32) + 1024).astype(np.uint16)
    encode = {
        uid.JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=16),
        uid.JPEGLSLossless: imagecodecs.jpegls_encode,
        uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0, reversible=True),
    }
    ds.PixelData = stored.astype(">u2" if syntax == uid.ExplicitVRBigEndian else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if syntax == uid.RLELossless:
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax in encode:
        ds.PixelData = encapsulate([bytes(encode[syntax](stored))])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def damage_slice(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a file with some bits, bytes or 16-bit words overwritten, bytes inserted or removed, or cut off."""
    damaged = bytearray(data)
    header_ends = min(len(data), 1200)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(128, header_ends if rng.random() < 0.7 else len(data)))
        at = min(at, len(damaged) - 4)
        match rng.integers(6):
            case 0:
                damaged[at] ^= 1 << rng.integers(8)
            case 1:
                damaged[at] = rng.integers(256)
            case 2:
                struct.pack_into("<H", damaged, at, _WORDS[rng.integers(len(_WORDS))])
            case 3:
                damaged[at] = rng.choice(list(b"0123456789.,-\\ eE"))
            case 4:
                damaged[at:at] = rng.bytes(int(rng.integers(1, 5)))
            case 5:
                del damaged[at : at + int(rng.integers(1, 5))]
    if rng.random() < 0.1:
        del damaged[int(rng.integers(200, len(damaged))) :]
    return bytes(damaged)


def put_series(folder: Path, data: bytes) -> Path:
    """Write the sound slices and the damaged one; return the folder."""
    series = folder / "series"
    series.mkdir(exist_ok=True)
    for k in range(N - 1):
        (series / f"{k}.dcm").write_bytes(_slice(k, uid.ExplicitVRLittleEndian))
    (series / f"{N - 1}.dcm").write_bytes(data)
    return series


def as_pydicom_reads(data: bytes, volume: Volume | None) -> str | None:
    """Say what is wrong with a volume: a slice left out, a sound one changed, a plain one unlike pydicom's."""
    if volume is None:
        return None
    slices = to_file_axes(volume.array_zyx, volume.grid).T
    if len(slices) != N:
        return f"{len(slices)} slices of {N}"
    sound = [np.array_equal(a, b) for a in slices for b in _hu()[: N - 1]]
    if sum(sound) < N - 1:
        return "a sound slice was changed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(io.BytesIO(data), force=True)
        if ds.file_meta.get("TransferSyntaxUID") not in _PLAIN:
            return None
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return None if any(np.allclose(a, hu, rtol=1e-6) for a in slices) else "the damaged slice is not pydicom's"
