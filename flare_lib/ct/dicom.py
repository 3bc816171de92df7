"""One DICOM series as a volume, read by SimpleITK."""

from pathlib import Path

import numpy as np

from flare_lib.ct.volume import FileGrid, Volume, place_in_world, scale_values, three_axes


def load_dicom(folder: Path) -> Volume:
    """Load the one DICOM series in a folder; its grid is the series' own, turned from LPS to RAS."""
    import SimpleITK as sitk  # here, because who loads NIfTI need not wait for it

    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what it would warn of is refused below
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if len(series) != 1:
            found = ", ".join(series) or "none"
            raise ValueError(f"{folder} must hold exactly one DICOM series, got {len(series)}: {found}")
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        image = sitk.ReadImage(names)
        positions = []
        for name in names:
            reader = sitk.ImageFileReader()
            reader.SetFileName(name)
            reader.ReadImageInformation()
            positions.append(reader.GetOrigin())
    except RuntimeError as error:
        raise ValueError(f"{folder} must hold readable DICOM, got: {' '.join(str(error).split())}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)
    raw = sitk.GetArrayFromImage(image).T
    shape = three_axes(raw.shape, folder)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    if len(names) > 1:  # SimpleITK stacks the slices straight and evenly, wherever they say they lie
        stacked = affine[:3, 3] + np.arange(len(names))[:, None] * affine[:3, 2]
        off_mm = np.linalg.norm(stacked - positions, axis=1).max()
        if off_mm > image.GetSpacing()[2] / 4:
            raise ValueError(
                f"the slices in {folder} must be evenly spaced and straight above one another (none missing, no tilted "
                f"gantry), got one {off_mm:.1f} mm off its place"
            )
    grid = FileGrid(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    return place_in_world(scale_values(raw, 1.0, 0.0, np.int16, folder), grid, folder)
