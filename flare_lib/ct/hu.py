"""Are these grey values Hounsfield units? Judged by where most voxels lie, never by a single one.

In HU air is -1000 and water 0 by definition; fat lies near -100, soft tissue (with contrast or without) between 0 and
200. A CT has air around or inside the body, or, in a tight field of view, at least fat next to soft tissue. An image
whose values lie elsewhere, but would fit with a different intercept, sign or scale, is refused with an explanation.
What may be right is accepted, with a doubt: a note that travels with the result.
Reference: DICOM PS3.3 C.11.1 (rescale slope and intercept; padding outside the reconstruction circle).
"""

from typing import NamedTuple

import numpy as np

AIR_HU, FAT_HU, SOFT_HU = (-1100.0, -910.0), (-150.0, -50.0), (-20.0, 200.0)
_DENSE_HU = 600.0  # only cortical bone and metal lie above
_BRIGHT_HU = 2000.0  # a single value above this that fills a part of the image is the end of a number format
PADDING_HU = -1100.0  # values below this that keep recurring were never measured
# 50 to 65 without contrast, 100 to 150 with it, below 0 with much fat; outside, labels and CT are not one patient's.
SANE_LIVER_HU = (-30.0, 200.0)
_SAMPLE = 50_000  # voxels examined: takes a few milliseconds, however large the CT
_WIDEST_HU = 2.0**17  # twice what 16 bits hold: no shift makes a wider range a CT, and its histogram would fill memory
_HIGHEST_HU = 2.0**15  # no metal is brighter in any scanner's format
_JUDGED = 1_000  # fewer voxels say nothing about a distribution
_PRESENT, _BODY = 0.01, 0.05  # shares of the voxels
_CLEARLY, _SLIGHT_NEEDS = 0.1, 0.2  # how much more of the image a mend must explain, and a slight one in addition
_MOST_DENSE, _MOST_ABOVE = 0.4, 0.3  # more than in a field full of skull; more than in one without air and fat
_FLAT_HU, _NARROW_HU = 20.0, 350.0  # no contrast at all; less contrast than any field with bone
_SEEN_HU = -325.0  # lower end of the nets' window


class _Mend(NamedTuple):
    """The correction of a common mistake: HU = scale * value + offset."""

    scale: float
    offset: float
    question: str

    @property
    def is_of_a_slope(self) -> bool:
        """Whether it supplies a slope: air stays in its place, and all else moves."""
        return abs(self.scale) != 1 and self.offset != 0

    @property
    def is_to_enlarge(self) -> bool:
        """Whether the values are some times too small; 1000 times means that they were normalised."""
        return 1 < self.scale < 1000

    def values_of(self, place_hu: tuple[float, float]) -> tuple[float, ...]:
        """Return the two image values that a range of HU corresponds to."""
        return tuple(sorted((end - self.offset) / self.scale for end in place_hu))


_SLOPES = (2, 4, 8, 16)  # of files that hold finer or coarser values than 1 HU, where something loses it
_AS_IT_IS = _Mend(1.0, 0.0, "")
_MENDS = (
    _Mend(1.0, -1024.0, "is the intercept -1024 missing?"),
    _Mend(1.0, -1000.0, "is the intercept -1000 missing?"),
    _Mend(1.0, 1024.0, "was the intercept -1024 added twice?"),
    _Mend(1.0, -32768.0, "is the intercept -32768 missing?"),
    _Mend(-1.0, 0.0, "is the image inverted?"),
    _Mend(1000.0, 0.0, "are the values 1000 times too small, or normalised?"),
    *(_Mend(1 / n, 0.0, f"are the values {n} times too large?") for n in (10, *_SLOPES)),
    *(_Mend(n, 0.0, f"are the values {n} times too small?") for n in _SLOPES[:2]),  # even smaller ones pass for a CT
    # none of a larger slope: without it a body looks like a field full of lung
    *(_Mend(1 / n, 1024.0 / n - 1024.0, f"is the slope {1 / n:g} missing?") for n in _SLOPES),
)


class _Shares(NamedTuple):
    """The shares of an image's voxels in the ranges of air, fat and soft tissue, above these, and far above."""

    air: float
    fat: float
    soft: float
    above: float
    dense: float

    @property
    def explained(self) -> float:
        return self.air + self.fat + self.soft

    @property
    def fit(self) -> float:
        """How well HU fit, -1 to 1: voxels far above soft tissue count against it; little of a body is so dense."""
        return self.explained - self.dense


def hu_problem(array: np.ndarray) -> str | None:
    """Say why an image (any shape, any real dtype, finite) is not a CT in HU, and how to mend it if that is clear.

    Returns None if it is one; otherwise text that continues "a CT in HU: ". An image of fewer than 1,000 voxels only
    needs one value below -10, which no label map and no image scaled to 0..1 has.
    """
    values = _measured(array)
    return _problem(array, values, _mend(values) if values.size >= _JUDGED else None)


def _problem(array: np.ndarray, values: np.ndarray, mend: _Mend | None) -> str | None:
    """Return what `hu_problem` does, given the image's measured values and the mend that would explain them better."""
    judged = values.size >= _JUDGED
    lowest, highest = (values[0], values[-1]) if judged else (array.min(), array.max())
    came = f"got values from {lowest:g} to {highest:g}"
    if lowest > -10:
        told = _told(values, mend) if mend and not _are_wrapped(values) else _guess(values)
        return f"air and fat must lie well below 0, {came} ({told})"
    if not judged:
        return None
    if _are_labels(values):
        return f"fat must lie near -100, {came} and nothing between {lowest:g} and 0 (a label map with padding?)"
    if mend and not _is_slight(mend):
        return f"air must lie near -1000 and fat near -100, {came} ({_told(values, mend)})"
    if padding := _bright_padding(values):
        value, share = padding
        return (
            f"what was never measured, outside the scanner's circle, must look like air (-1024), got {value:g} in "
            f"{share:.0%} of the voxels"
        )
    if mend:
        return None
    low, high = _ends(values)
    if high - low < _FLAT_HU and low > AIR_HU[1]:
        return f"air, fat and soft tissue must differ, got {low:g} to {high:g} nearly everywhere ({_guess(values)})"
    shares = _shares(values, _AS_IT_IS)
    nothing_below = max(shares.air, shares.fat) < _PRESENT
    if shares.explained < _CLEARLY or shares.dense > _MOST_DENSE or (nothing_below and shares.above > _MOST_ABOVE):
        return (
            f"air must lie near -1000, fat near -100 and soft tissue between 0 and 200, {came}, {shares.explained:.0%} "
            f"of them there and {shares.above:.0%} above (not a CT, or scaled?)"
        )
    return None


def hu_doubts(array: np.ndarray) -> tuple[str, ...]:
    """Return doubts about the grey values of a CT, one sentence each; often none.

    Of an image that `hu_problem` would refuse (made in memory: no file's gets so far), they say that alone.
    """
    values = _measured(array)
    if values.size < _JUDGED:
        return ()
    mend = _mend(values)
    if problem := _problem(array, values, mend):
        return (f"the grey values are not those of a CT in HU: {problem}",)
    highest = array.max() if array.dtype != np.int16 else 0
    shares, (low, high) = _shares(values, _AS_IT_IS), _ends(values)
    doubts = []
    if mend and _is_slight(mend):
        doubts.append(f"the grey values may not be HU: {_told(values, mend)}")
    if shares.soft < _PRESENT:
        doubts.append(f"there may be no body in this CT: {shares.soft:.1%} of the voxels lie between -20 and 200 HU")
    elif not doubts and max(shares.air, shares.fat) < _PRESENT:
        doubts.append("there is neither air near -1000 nor fat near -100 HU, so nothing shows that these are HU")
    if clipped := _share_of_the_lowest(values):
        doubts.append(f"the grey values are clipped at {values[0]:g} HU, {clipped:.0%} of them: air may look like fat")
    elif high - low < _NARROW_HU and low > AIR_HU[1]:
        doubts.append(f"nearly all grey values lie between {low:g} and {high:g} HU: clipped, or scaled?")
    at_0 = _between(values, 0, np.nextafter(0, 1))
    if at_0 > _BODY and at_0 > 0.7 * _between(values, -4, 4):
        doubts.append(f"{at_0:.0%} of the voxels are exactly 0 HU: padding that looks like water?")
    if highest > _HIGHEST_HU:  # even a few voxels
        doubts.append(f"the grey values reach {highest:g} HU: did values below the lowest that fits wrap around?")
    return tuple(doubts)


def _measured(array: np.ndarray) -> np.ndarray:
    """Return about 50,000 values from all over an image, float64, sorted, without padding.

    Padding is a value far below air that keeps recurring, such as -2000, -3024 or -32768: noise never does that.
    If padding is all there is, it is returned unchanged.
    """
    step = max(1, round((array.size / _SAMPLE) ** (1 / array.ndim)))
    values = array[tuple(slice(None, None, min(step, max(1, n // 8))) for n in array.shape)].ravel()
    values = np.sort(values[:: max(1, values.size // _SAMPLE)].astype(np.float64))
    found, counts = np.unique(values[: np.searchsorted(values, PADDING_HU)], return_counts=True)
    measured = values[~np.isin(values, found[counts > _PRESENT * values.size])]
    return measured if measured.size else values


def _ends(values: np.ndarray) -> np.ndarray:
    """Return the two values between which all but 2 in 1,000 lie."""
    return values[[values.size // 1000, -1 - values.size // 1000]]


def _between(values: np.ndarray, low: float, high: float) -> float:
    """Return the share of sorted values in [low, high)."""
    start, stop = np.searchsorted(values, (low, high))
    return float(stop - start) / values.size


def _bright_padding(values: np.ndarray) -> tuple[float, float] | None:
    """Return the value far above bone that is padding, and its share, or None: metal never fills so much of a CT."""
    found, counts = np.unique(values[np.searchsorted(values, _BRIGHT_HU) :], return_counts=True)
    if not found.size or counts.max() <= _BODY * values.size:
        return None
    return float(found[counts.argmax()]), float(counts.max() / values.size)


def _share_of_the_lowest(values: np.ndarray) -> float:
    """Return the share of voxels at the lowest value if a window was cut there, within the nets' range; else 0."""
    share = _between(values, values[0], np.nextafter(values[0], np.inf))
    return share if _SEEN_HU < values[0] < 0 and _PRESENT < share < 1 else 0.0


def _are_labels(values: np.ndarray) -> bool:
    """Return whether all but the lowest value are labels: whole numbers up to 255, several, and none below 0."""
    others = values[np.searchsorted(values, values[0], "right") :]
    if not others.size or others[0] < 0 or others[-1] > 255:
        return False
    return np.unique(others).size > 2 and np.array_equal(others, np.rint(others))


def _are_wrapped(values: np.ndarray) -> bool:
    """Return whether all values lie near either end of 16 bits, as HU do whose sign was lost."""
    low, high = 2**12, 2**16 - 2**12
    return values[0] >= 0 and high < values[-1] < 2**16 and _between(values, low, high) < _PRESENT


def _shares(values: np.ndarray, mend: _Mend) -> _Shares:
    places = (AIR_HU, FAT_HU, SOFT_HU, (SOFT_HU[1], np.inf), (_DENSE_HU, np.inf))
    return _Shares(*(_between(values, *mend.values_of(place)) for place in places))


def _mend(values: np.ndarray) -> _Mend | None:
    """Return the mend that turns an image into a CT, explaining clearly more of it than HU do; None if none does."""
    values = values[round(_share_of_the_lowest(values) * values.size) :]  # values a window cut off say nothing
    low, high = _ends(values)
    as_it_is = _shares(values, _AS_IT_IS)
    # values that all lie within one tissue fit nothing
    best, fit = None, _CLEARLY + (0.0 if high - low < _FLAT_HU else as_it_is.fit)
    for mend in (*_MENDS, *_shift(values)):
        if mend.is_of_a_slope and as_it_is.soft >= _BODY:  # it would take dense bone for soft tissue
            continue
        shares = _shares(values, mend)
        # lungs, cork or a window's end lie where smaller values have their air: fat must be there as well
        if mend.is_to_enlarge and shares.fat < max(as_it_is.fat, _BODY):
            continue
        # a new scale can squeeze or spread any values until they fit: only air is evidence for it
        lowest = shares.air if abs(mend.scale) != 1 else max(shares.air, shares.fat)
        needed = fit + (_SLIGHT_NEEDS if _is_slight(mend) else 0.0)
        if shares.soft >= _BODY and lowest >= _PRESENT and shares.fit > needed:
            best, fit = mend, shares.fit + _CLEARLY / 2  # prefer the common mistake to the rare one
    return best


def _shift(values: np.ndarray) -> list[_Mend]:
    """Return the shift that moves the most frequent grey values to air, unless they are there already."""
    low, high = _ends(values)
    if max(high - low, abs(low), abs(high)) > _WIDEST_HU:
        return []
    counts, edges = np.histogram(values, bins=max(1, int((high - low) / 20)), range=(low, high))
    start, stop = np.searchsorted(values, edges[counts.argmax()] + (-20, 40))  # 20 more on either side
    peak = float(values[(start + stop) // 2])
    if AIR_HU[0] <= peak < AIR_HU[1]:
        return []
    offset = round(-1000.0 - peak, -1)
    return [_Mend(1.0, offset, f"are all values about {abs(offset):.0f} too {'low' if offset > 0 else 'high'}?")]


def _is_slight(mend: _Mend) -> bool:
    """Return whether a shift is as small as cone-beam CTs have, or as lungs that fill the field may mimic."""
    return mend.scale == 1.0 and abs(mend.offset) < 300


def _told(values: np.ndarray, mend: _Mend) -> str:
    """Say where air lies, or fat if there is less air, and what would correct it."""
    shares = _shares(values, mend)
    name, place = ("air", AIR_HU) if shares.air >= shares.fat else ("fat", FAT_HU)
    start, stop = np.searchsorted(values, mend.values_of(place))
    value = values[(start + stop) // 2]
    return f"{name} lies at {value:{'.0f' if abs(value) >= 10 else '.2g'}}: {mend.question}"


def _guess(values: np.ndarray) -> str:
    """Guess what an image without air and fat may be."""
    if _are_wrapped(values):
        return "were signed values read as unsigned ones?"
    if np.ptp(_ends(values)) < _FLAT_HU and not np.array_equal(values, np.rint(values)):
        return "an image already normalised?"
    if values[0] >= -1 and values[-1] <= 255 and np.array_equal(values, np.rint(values)):
        return "a label map, or an 8-bit image?"
    return "a label map, an image already normalised, or not a CT?"
