"""Small DICOM series to put a fault into: five slices of 6 x 7 pixels, 3.0 x 1.25 x 0.75 mm apart."""

import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import imagecodecs
import numpy as np
from pydicom import Dataset, config, dcmread, fileset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from flare_lib.ct.dicom_folder import read_files
from flare_lib.ct.dicom_headers import Header

N, ROWS, COLUMNS = 5, 6, 7
HU = np.random.default_rng(0).integers(-1000, 1200, (N, ROWS, COLUMNS)).astype(np.int16)
SPACING_ZYX_MM = (3.0, 1.25, 0.75)
SERIES = "1.2.826.0.1.3680043.2.1125.1"
PATIENT = "Mustermann^Erika"

Change = Callable[[Dataset, int], object]


def a_slice(k: int) -> Dataset:
    """Return the k-th slice, stored as 16 bits without a sign, 1024 above its HU."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{SERIES}.{k + 1}"
    ds.ImageType, ds.Modality, ds.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "Abdomen 3.0"
    ds.PatientName, ds.PatientID, ds.StudyDate = PATIENT, "4711", "20200229"
    ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.InstanceNumber = SERIES, f"{SERIES}.99", k + 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-31.0, 42.0, 7.5 + 3.0 * k], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [1.25, 0.75], 5.0
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    store(ds, HU[k] + 1024)
    return ds


def store(ds: Dataset, values: np.ndarray, dtype: str = "<u2") -> None:
    """Put values into a slice as they are."""
    ds.PixelData = np.ascontiguousarray(values.astype(dtype)).tobytes()
    ds["PixelData"].VR = "OW"


def write_series(folder: Path, change: Change = lambda ds, k: None, slices: Iterable[int] = range(N)) -> Path:
    """Write a series, each slice changed first, as 000.dcm, 001.dcm ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in slices:
        ds = a_slice(k)
        with unchecked():
            change(ds, k)
        write(ds, folder / f"{k:03}.dcm")
    return folder


@contextmanager
def unchecked() -> Iterator[None]:
    """Let pydicom take values that are not allowed."""
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write(ds: Dataset, path: Path) -> Path:
    """Write a slice, however wrong its values are."""
    with unchecked():
        ds.save_as(path, enforce_file_format=True)
    return path


def only(k: int, **elements: object) -> Change:
    """Return a change of one slice: these elements set, those that are None taken away."""

    def change(ds: Dataset, this: int) -> None:
        if this == k:
            set_elements(ds, **elements)

    return change


def every(**elements: object) -> Change:
    """Return a change of every slice: these elements set, those that are None taken away."""
    return lambda ds, k: set_elements(ds, **elements)


def set_elements(ds: Dataset, **elements: object) -> None:
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)


def written_as(syntax: str) -> Change:
    """Return a change that writes a slice in another transfer syntax."""
    return lambda ds, k: _write_as(ds, syntax)


def _write_as(ds: Dataset, syntax: str) -> None:
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    encode = {
        uid.JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=16),
        uid.JPEGLSLossless: imagecodecs.jpegls_encode,
        uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0, reversible=True),
        uid.HTJ2KLossless: imagecodecs.htj2k_encode,
    }
    if syntax == uid.RLELossless:
        ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax in encode:
        ds.PixelData = encapsulate([bytes(encode[syntax](np.ascontiguousarray(stored)))])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    elif syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = stored.astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax


def other_series(folder: Path, number: int, change: Change = lambda ds, k: None, slices: Iterable[int] = (0,)) -> Path:
    """Write a series with a UID of its own, SERIES.number, beside others: number_000.dcm ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in slices:
        ds = a_slice(k)
        ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{SERIES}.{number}", f"{SERIES}.{number}.{k + 1}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        with unchecked():
            change(ds, k)
        ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", uid.CTImageStorage)
        write(ds, folder / f"{number}_{k:03}.dcm")
    return folder


def zipped(folder: Path, archive: Path) -> Path:
    """Pack a folder with everything below it; return the archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return archive


def disc(folder: Path, of: Path) -> Path:
    """Burn a disc of the files in a folder: they and a DICOMDIR that lists them; return it."""

    def image_record(ds: Dataset) -> Dataset:
        record = Dataset()
        record.InstanceNumber, record.ImageType = ds.InstanceNumber, ds.ImageType
        return record

    files = fileset.FileSet()
    with unchecked(), patch.dict(fileset.DIRECTORY_RECORDERS, IMAGE=image_record):
        for path in sorted(of.iterdir()):
            ds = dcmread(path)
            ds.StudyInstanceUID = ds.get("StudyInstanceUID", f"{SERIES}.98")
            ds.StudyTime, ds.StudyID, ds.SeriesNumber = "120000", "1", 1
            files.add(ds)
        files.write(folder)
    files._stage["t"].cleanup()  # otherwise a warning comes later
    return folder


def enhanced(path: Path, hu: np.ndarray = HU, change: Change = lambda ds, k: None) -> Path:
    """Write slices as one Enhanced CT, each frame's functional groups changed first; its frames run from head to feet.

    What a single-frame slice states by itself stands in the functional groups here, some shared and some a frame's own.
    """
    ds = a_slice(0)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.EnhancedCTImageStorage
    orientation, spacing, values = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = ds.ImageOrientationPatient
    spacing.PixelSpacing, spacing.SliceThickness = ds.PixelSpacing, ds.SliceThickness
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [spacing]
    shared.PixelValueTransformationSequence = [values]
    frames = []
    for k in range(len(hu)):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [-31.0, 42.0, 7.5 + 3.0 * k]
        frame.PlanePositionSequence = [place]
        with unchecked():
            change(frame, k)
        frames.insert(0, frame)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(ds, keyword)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.NumberOfFrames = len(hu)
    store(ds, hu[::-1] + 1024)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(ds, path)


def headers_in(folder: Path) -> list[Header]:
    """Return the headers of all DICOM files below a folder."""
    return read_files(folder).headers
