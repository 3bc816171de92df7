"""Padding that a DICOM header declares: pixels that were never measured, darker than air once they are read.

A scanner pads the round field that it reconstructs to a square, mostly with a value as low as that of air, or lower. A
bright one would look like bone or metal; such pixels get the value that others pad with.
Reference: DICOM PS3.3, C.7.5.1.1.2 (pixel padding value and pixel padding range limit).
"""

import numpy as np
from scipy import ndimage

from flare_lib.ct.dicom_headers import Header
from flare_lib.ct.hu import AIR_HU, SOFT_HU

_PADDED_HU = -3024.0


def darken_padding(stored: np.ndarray, header: Header, slope: float, intercept: float) -> np.ndarray:
    """Return a slice's stored integers (rows, columns) with declared padding that is brighter than air at -3024 HU.

    Only areas that reach a corner are padding, as all do that lie beside a round or straight field: within the body,
    the same value may be metal or water. A range that begins at or below soft tissue's values is not believed. The
    array itself is returned if nothing is declared or believed, or if it is as dark as air.
    """
    if (ends := _declared(header)) is None:
        return stored
    darkest, brightest = sorted(slope * end + intercept for end in ends)
    if brightest <= AIR_HU[1] or (darkest < brightest and darkest <= SOFT_HU[1]):
        return stored
    low, high = ends
    areas, _ = ndimage.label((stored >= low) & (stored <= high))
    corners = areas[[0, 0, -1, -1], [0, -1, 0, -1]]
    air = round((_PADDED_HU - intercept) / slope)
    return np.where(np.isin(areas, corners[corners > 0]), air, stored.astype(np.int64))


def _declared(header: Header) -> tuple[int, int] | None:
    """Return the lowest and the highest stored value that a header declares to be padding, or None.

    Like a pixel, each is a word whose highest bit may be a sign, whatever type the header gives it.
    """
    try:
        value = header.whole("PixelPaddingValue")
        limit = value if header.value("PixelPaddingRangeLimit") is None else header.whole("PixelPaddingRangeLimit")
    except ValueError:  # missing, or not a number
        return None
    words = 2 ** header.whole("BitsAllocated")
    below_0 = words // 2 * header.whole("PixelRepresentation")
    low, high = sorted((end + below_0) % words - below_0 for end in (value, limit))
    return low, high
