"""The numbers in nnU-Net's plans and in the cards of weights: each is what it must be, or one line says which is not.

Both come from strangers, as JSON or as a pickle, and may hold anything in a number's place: nothing, text, NaN,
infinity, or a number so large that a net with it would fill the memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np

from flare_lib.ct.volume import SPACINGS_MM, Shape, Triple, triple

MOST_FEATURES, MOST_STAGES, MOST_LAYERS, WIDEST_KERNEL, LARGEST_STRIDE = 4096, 16, 64, 15, 16
SCALES, MOST_SCALES = (0.5, 2.0), 8
_LONGEST_EDGE, _MOST_VOXELS = 2048, 2**27  # of a patch
_LARGEST = float(np.finfo(np.float32).max)  # nets compute in no larger numbers
_SHOWN = 60  # characters of what came


@contextmanager
def in_one_line(must: str, *, about: object = "") -> Iterator[None]:
    """Raise ValueError, "`must`, got ...", if the block fails because something is missing or of another kind.

    A ValueError in the block keeps its words, after what they are `about`.
    """
    try:
        yield
    except ValueError as error:
        if not about:
            raise
        raise ValueError(f"{about}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{must}, got {said}") from error


def finite(value: Any, name: str, *, negative: bool = True) -> float:
    """Return a finite number, perhaps a `negative` one, as a float; ValueError, with its name, for anything else."""
    if not _is_number(value) or not (-_LARGEST if negative else 0) <= value <= _LARGEST:
        raise ValueError(f"{name} must be a finite number{'' if negative else ', 0 or more'}, got {_shown(value)}")
    return float(value)


def whole(value: Any, name: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; ValueError, with its name, for anything else."""
    if not _is_number(value) or not low <= value <= high or value != int(value):
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_shown(value)}")
    return int(value)


def wholes(values: Any, name: str, low: int, high: int, n: int | None = None) -> list[int]:
    """Return `n` whole numbers (None: any number of them) from `low` to `high`; ValueError for anything else."""
    listed = _listed(values)
    if listed is None or n not in (None, len(listed)):
        raise ValueError(f"{name} must be {'' if n is None else f'{n} '}whole numbers, got {_shown(values)}")
    return [whole(value, f"every number of {name}", low, high) for value in listed]


def of_stages(values: Any, name: str, low: int, high: int, n_stages: int) -> list[int]:
    """Return one whole number for each stage, whether plans list them or state one for all."""
    return wholes([values] * n_stages if _is_number(values) else values, name, low, high, n_stages)


def of_stages_and_axes(values: Any, name: str, low: int, high: int, n_stages: int) -> list[list[int]]:
    """Return three whole numbers, one per axis, for each stage; a single one is meant for all three axes."""
    listed = _listed([values] * n_stages if _is_number(values) else values)
    if listed is None or len(listed) != n_stages:
        raise ValueError(f"{name} must be those of {n_stages} stages, got {_shown(values)}")
    return [wholes([value] * 3 if _is_number(value) else value, name, low, high, 3) for value in listed]


def check_layer(key: str, value: Any) -> None:
    """Raise ValueError unless an argument about a net's layers is of the right kind: a name, a switch, or numbers."""
    if key == "conv_bias" and not isinstance(value, bool):
        raise ValueError(f"conv_bias must be true or false, got {_shown(value)}")
    if key.endswith("_op") or key == "nonlin":
        if not isinstance(value, str | None):
            raise ValueError(f"{key} must be the name of a class, or null, got {_shown(value)}")
    elif key.endswith("_kwargs"):
        if not isinstance(value, dict | None):
            raise ValueError(f"{key} must be an object, or null, got {_shown(value)}")
        for name, setting in (value or {}).items():
            if name == "eps" or not isinstance(setting, str | bool | None):
                finite(setting, f"{name} in {key}", negative=name != "eps")


def planned_spacing(values: Any, name: str) -> Triple:
    """Return a spacing in mm, one number per axis; ValueError unless it is one that a CT could have."""
    low, high = SPACINGS_MM
    listed = _listed(values)
    if listed is None or len(listed) != 3 or not all(_is_number(mm) and low <= mm <= high for mm in listed):
        raise ValueError(f"{name} must be 3 numbers from {low:g} to {high:g} mm, got {_shown(values)}")
    return triple(map(float, listed))


def planned_scales(values: Any) -> tuple[float, ...]:
    """Return at which sizes a net sees a CT, at least one; ValueError unless each is from half to twice its own."""
    low, high = SCALES
    listed = _listed(values)
    if (
        not listed
        or len(listed) > MOST_SCALES
        or not all(_is_number(scale) and low <= scale <= high for scale in listed)
    ):
        raise ValueError(f"scales must be 1 to {MOST_SCALES} numbers from {low:g} to {high:g}, got {_shown(values)}")
    return tuple(map(float, listed))


def planned_patch(values: Any, configuration: str) -> Shape:
    """Return a patch's shape; ValueError unless it has three axes and a size that could be computed."""
    patch_size = wholes(values, "patch_size", 1, _LONGEST_EDGE)
    if len(patch_size) != 3:
        raise ValueError(f"the configuration must be 3-D, got {configuration} with patches of {tuple(patch_size)}")
    return net_patch(patch_size)


def net_patch(values: Any) -> Shape:
    """Return a patch's shape; ValueError unless it is three numbers, and a size that could be computed."""
    patch_size = triple(wholes(values, "patch_size", 1, _LONGEST_EDGE, 3))
    if np.prod(patch_size, dtype=float) > _MOST_VOXELS:
        raise ValueError(f"patch_size must be that of at most {_MOST_VOXELS:,} voxels, got {patch_size}")
    return patch_size


def planned_order(values: Any) -> Shape:
    """Return `transpose_forward`, the order of a net's axes; ValueError unless it is 0, 1 and 2 in some order."""
    order = wholes(values, "transpose_forward", 0, 2)
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"transpose_forward must be 0, 1 and 2 in some order, got {tuple(order)}")
    return triple(order)


def check_strides(patch_size: Shape, strides: Sequence[Sequence[int]]) -> None:
    """Raise ValueError unless a patch (Z, Y, X) can be halved as often as the strides of the stages say."""
    along = np.prod(np.asarray(strides, float), axis=0)
    if any(n % stride for n, stride in zip(patch_size, along, strict=True)):
        of_all = " x ".join(f"{stride:g}" for stride in along)
        raise ValueError(f"patch_size must be a multiple of all strides together, {of_all}, got {tuple(patch_size)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _listed(values: Any) -> list[Any] | None:
    """Return the values of a list, a tuple or an array with one axis; None for anything else."""
    if isinstance(values, np.ndarray):
        return list(values) if values.ndim == 1 else None
    return list(values) if isinstance(values, list | tuple) else None


def _shown(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
