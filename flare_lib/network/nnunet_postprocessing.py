"""What nnU-Net v1 found worth removing from its labels, read from the `postprocessing.json` of a results folder.

Cross-validation tried, for the foreground as a whole and for each label, whether scores rise if only the largest piece
is kept. The file names those where they did, and nnU-Net v1's predictor follows it.

Version 2 keeps the like as a pickle of functions, for a command of its own, `nnUNetv2_apply_postprocessing`.

Reference: nnU-Net 1.7.1, `postprocessing.connected_components`, `inference.predict`.
"""

import ast
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flare_lib.network.plan_numbers import finite, wholes

POSTPROCESSING_V1 = "postprocessing.json"


class LargestOnly(NamedTuple):
    """Of these labels taken together, only the largest piece stays, and others of at least `min_mm3`."""

    labels: tuple[int, ...]
    min_mm3: float = math.inf


def read_postprocessing(path: Path, labels: Sequence[int]) -> tuple[LargestOnly, ...]:
    """Return the rules in the order in which they are applied; none if there is no file or if nothing helped.

    `labels`: all that the net can give, without the background. Raises ValueError, in one line, for a file that holds
    anything else, and for labels that the net does not know.
    """
    if not path.is_file():
        return ()
    try:
        stated = json.loads(path.read_text(encoding="utf-8-sig"))
        groups = stated["for_which_classes"]
        sizes = ast.literal_eval(stated.get("min_valid_object_sizes", "None"))
        return tuple(_rule(group, sizes, labels) for group in (labels if groups is None else groups))
    except (KeyError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} must be that of nnU-Net v1, got {' '.join(said.split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _rule(group: Any, sizes: Any, labels: Sequence[int]) -> LargestOnly:
    named = wholes(group if isinstance(group, list) else [group], "for_which_classes", 1, max(labels))
    if sizes is None:
        return LargestOnly(tuple(named))
    key = tuple(named) if isinstance(group, list) else named[0]
    return LargestOnly(tuple(named), finite(sizes[key], f"the smallest valid size of {key}", negative=False))
