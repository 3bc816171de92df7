"""Which values a recipe may have: one rule for each, checked before any work starts.

A rule states what must hold, in words, and tests it. True and 3.0 are not whole numbers; all numbers must be finite.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from flare_lib.network.consistency import KINDS
from flare_lib.synthetic.structures import ORGAN_STRUCTURES

KEEP = ("last", "best")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("poly", "halving")
SOURCES = ("cases", "pseudo_labelled", "label_maps", "phantoms")
STAGES = ("coarse", "fine")


class Rule(NamedTuple):
    """What must hold for a value."""

    words: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: Any, above: float = -math.inf) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and float(value) > above
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _whole(least: int) -> Rule:
    return Rule(f"a whole number, {least} or more", lambda value: _is_whole(value, least))


def _one_of(known: Iterable[str]) -> Rule:
    return Rule(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def _each(value: Any, holds: Callable[[Any], bool], lengths: Sequence[int]) -> bool:
    return isinstance(value, (tuple, list)) and len(value) in lengths and all(map(holds, value))


def _are_shares(value: Mapping[Any, Any]) -> bool:
    shares = value.values()
    return all(name in SOURCES for name in value) and all(map(_NOT_NEGATIVE.holds, shares)) and sum(shares) > 0


_POSITIVE = Rule("a number above 0", lambda value: _is_number(value, 0))
_NOT_NEGATIVE = Rule("a number, 0 or more", lambda value: _is_number(value) and value >= 0)
_SHARE = Rule("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_BELOW_1 = Rule("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
_STAGES_OF_NETS = range(2, 9)

RULES = {
    "stage": _one_of(STAGES),
    "spacing_zyx_mm": Rule("3 numbers above 0 (z, y, x)", lambda value: _each(value, _POSITIVE.holds, [3])),
    "patch_size": Rule("3 whole numbers, 1 or more (z, y, x)", lambda value: _each(value, _whole(1).holds, [3])),
    "n_steps": _whole(1),
    "batch_size": _whole(1),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warm_up_steps": _whole(0),
    "mean_hu": Rule("a number or None", lambda value: value is None or _is_number(value)),
    "sd_hu": Rule("a number above 0 or None", lambda value: value is None or _POSITIVE.holds(value)),
    "foreground_share": _SHARE,
    "cut": _SHARE,
    "narrow": _SHARE,
    "growths": _NOT_NEGATIVE,
    "missing": Rule(
        f"probabilities from 0 to 1 of organs, such as {{'spleen': 0.1}}; they are {', '.join(ORGAN_STRUCTURES)}",
        lambda value: (
            isinstance(value, Mapping) and all(k in ORGAN_STRUCTURES and _SHARE.holds(value[k]) for k in value)
        ),
    ),
    "phases": Rule(
        "4 numbers from 0 to 1 that add up to 1",
        lambda value: _each(value, _SHARE.holds, [4]) and math.isclose(sum(value), 1),
    ),
    "noise_hu": Rule(
        "2 numbers, 0 or more, low and high",
        lambda value: _each(value, _NOT_NEGATIVE.holds, [2]) and value[0] <= value[1],
    ),
    "sources": Rule(
        f"shares of {', '.join(SOURCES)}, not all 0, such as {{'phantoms': 1.0}}",
        lambda value: isinstance(value, Mapping) and _are_shares(value),
    ),
    "features_per_stage": Rule(
        "2 to 8 whole numbers, 1 or more", lambda value: _each(value, _whole(1).holds, _STAGES_OF_NETS)
    ),
    "strides": Rule(
        "1 to 7 triples of whole numbers, 1 or more (z, y, x)",
        lambda value: _each(value, lambda stride: _each(stride, _whole(1).holds, [3]), range(1, 8)),
    ),
    "n_heads": _whole(1),
    "seed": _whole(0),
    "optimizer": _one_of(OPTIMIZERS),
    "schedule": _one_of(SCHEDULES),
    "halve_every": _whole(1),
    "n_unlabelled": _whole(0),
    "consistency": _one_of(KINDS),
    "consistency_weight": _NOT_NEGATIVE,
    "ramp_up_steps": _whole(1),
    "augmentation": _SHARE,
    "n_steps_without_augmentation": _whole(0),
    "appearance": _SHARE,
    "accumulate": _whole(1),
    "margin_mm": _NOT_NEGATIVE,
    "n_phantoms": _whole(1),
    "n_between": _whole(0),
    "n_validation": _whole(0),
    "validate_every": _whole(0),
    "keep": _one_of(KEEP),
    "ema_decay": _BELOW_1,
}


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the value and its rule, unless all values of a recipe obey their rules and fit together.

    A net has one stride fewer than stages and at most one head per decoder stage, the strides divide the patch evenly
    and leave at least two voxels of it, mean and SD are either both given or both None, and only a run that validates
    can keep its best weights.
    """
    for name, rule in RULES.items():
        if not rule.holds(values[name]):
            raise ValueError(f"{name} must be {rule.words}, got {values[name]!r}")
    strides = values["strides"]
    if len(strides) != len(values["features_per_stage"]) - 1:
        raise ValueError(
            f"strides must be one fewer than features_per_stage, got {len(strides)} "
            f"for {len(values['features_per_stage'])}"
        )
    if values["n_heads"] > len(strides):
        raise ValueError(f"n_heads must be at most the number of strides, {len(strides)}, got {values['n_heads']}")
    multiples = tuple(math.prod(stride[axis] for stride in strides) for axis in range(3))
    if any(size % multiple for size, multiple in zip(values["patch_size"], multiples, strict=True)):
        raise ValueError(
            f"patch_size must be multiples of {multiples}, by which the net makes it smaller, "
            f"got {tuple(values['patch_size'])}"
        )
    if tuple(values["patch_size"]) == multiples:  # instance normalisation needs a spread
        raise ValueError(f"patch_size must leave 2 voxels to the coarsest stage, got {multiples}, which leaves 1")
    if (values["mean_hu"] is None) != (values["sd_hu"] is None):
        raise ValueError(f"mean_hu and sd_hu must come together, got {values['mean_hu']} and {values['sd_hu']}")
    held_out = not values["sources"].get("cases") or values["n_validation"]  # phantoms are held out where no case is
    if values["keep"] == "best" and not (values["validate_every"] and held_out):
        raise ValueError(
            "keep must be last unless the run validates (validate_every, and n_validation for cases), got best"
        )
