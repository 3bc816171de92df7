"""Which of several DICOM series is the CT to load.

The only CT series that nothing rules out is taken, and notes name whatever else lies there. If several qualify, the
choice is the user's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flare_lib.ct.dicom_series import Series
from flare_lib.ct.dicom_stack import CT_CLASSES, is_localizer
from flare_lib.machine.counted import some_of

_MOST_LISTED = 12


def choose_series(found: Sequence[Series], path: Path, name: str | None = None) -> tuple[Series, tuple[str, ...]]:
    """Return the series called `name`, or the only CT that can be loaded, and notes of what was passed over for it.

    Raises ValueError, in one line, if there is no such series, if something rules it out, or if several qualify, which
    the line then lists.
    """
    if name is not None and found:
        named = [series for series in found if name == series.name]
        named = named or [series for series in found if name == series.name.partition("#")[0]]
        if len(named) != 1:
            raise ValueError(
                f"--series must name one series in {path}, got {name}, which names {_listed(named, found)}"
            )
        if named[0].against:
            raise ValueError(named[0].against)
        return named[0], named[0].beside
    if not found:
        raise ValueError(f"{path} must hold a DICOM series, got no DICOM file")
    able = [series for series in found if series.against is None]
    preferred = [series for series in able if series.doubt is None]
    spoilt = [series for series in found if series.against and (_shows_ct(series) or len(found) == 1)]
    if not preferred and len(spoilt) == 1:
        raise ValueError(spoilt[0].against)
    if not preferred and not spoilt:
        preferred = able
    if len(preferred) != 1:
        raise ValueError(
            f"{path} must hold exactly one CT series, or --series must name one (flare info tells more), got "
            f"{_listed(preferred, found)}"
        )
    chosen = preferred[0]
    for other in found:
        if other is not chosen and _continues(other, chosen):
            raise ValueError(
                f"a CT must be one series, got two of which one continues the other (choose with --series): "
                f"{chosen}; {other}"
            )
    passed = [f"{s} ({s.against})" if s in spoilt else str(s) for s in found if s is not chosen]
    return chosen, (*chosen.beside, *([f"passed over beside this series: {_joined(passed)}"] if passed else []))


def _listed(named: Sequence[Series], found: Sequence[Series]) -> str:
    return f"{len(named)} of {len(found)}: {_joined([*map(str, named or found)]) or 'none'}"


def _joined(lines: Sequence[str]) -> str:
    return some_of(lines, "; ", most=_MOST_LISTED)


def _shows_ct(series: Series) -> bool:
    """Return whether a series says that it holds CT images."""
    first = series.slices[0]
    return str(first.value("SOPClassUID") or "") in CT_CLASSES and not is_localizer(first)


def _continues(other: Series, chosen: Series) -> bool:
    """Return whether a single slice lies where the chosen series would go on: its UID may be what is damaged."""
    if other.stack is None or chosen.stack is None or len(other.stack.slices) != 1:
        return False
    slice_, first = other.stack.slices[0], chosen.stack.slices[0]
    for name, n in (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2), ("ImageOrientationPatient", 6)):
        if not np.allclose(slice_.numbers(name, n), first.numbers(name, n), atol=1e-3):
            return False
    step = chosen.stack.affine[:3, 2]
    away = np.array(slice_.numbers("ImagePositionPatient", 3)) - first.numbers("ImagePositionPatient", 3)
    k = float(away @ step / (step @ step))
    n_slices = len(chosen.stack.slices)
    return any(abs(k - end) < 0.25 for end in (-1, n_slices))
