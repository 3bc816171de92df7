"""What `benchmarks/gpu.py` has measured on a card, as a table; "not measured" as long as it has not run."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HEADER = "| | | size | device | s (median of n) | s with transfer | peak MiB | |\n|---|---|---|---|---|---|---|---|"
NOT_MEASURED = "not measured: on a computer with a card, `python benchmarks/gpu.py` does it in 8 minutes"


def gpu_table(path: str | Path, sections: Iterable[str] = ()) -> str:
    """Return the stored record as Markdown: the card, and a table of its rows from these sections (none: all).

    Returns `NOT_MEASURED` if there is no such file, or nothing from these sections in it. Raises ValueError for a file
    that is not such a record.
    """
    path = Path(path)
    if not path.is_file():
        return NOT_MEASURED
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        wanted = set(sections)
        lines = [gpu_row(row) for row in stored["rows"] if not wanted or row["section"] in wanted]
        card = stored["card"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be what benchmarks/gpu.py has stored, got {error!r}") from error
    return "\n".join([f"Card: {card}.\n", HEADER, *lines]) if lines else NOT_MEASURED


def gpu_row(row: Mapping[str, Any]) -> str:
    """Return one measurement as a row of the table; KeyError if it lacks one of its numbers."""
    shape = " x ".join(map(str, row["shape"]))
    seconds = row.get("said") or f"{row['seconds']:.4g} ({row['n']})"
    moved, peak = row.get("seconds_with_transfer"), row["peak_mib"]
    same = [f"{row['voxels_that_differ']:,} voxels differ"] if "voxels_that_differ" in row else []
    same += [f"Dice {row['mean_dice']:.5f}"] if row.get("mean_dice") is not None else []
    same += [f"{row['share_that_differs']:.2%} differ"] if "share_that_differs" in row else []
    cells = (row["section"], row["what"], shape, row["device"], seconds, "" if moved is None else f"{moved:.4g}")
    return "| " + " | ".join((*cells, "" if peak is None else f"{peak}", ", ".join(same))) + " |"
