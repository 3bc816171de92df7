"""A cohort at a glance: one page with a picture of every case, the oddest first.

The page is a single HTML file beside the pictures; it needs no network. It is made only from a manifest's entries
(`inference.cohort_run`).
"""

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib.image import imsave

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import Volume
from flare_lib.display.slices import organ_center, slice_picture
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.counted import counted

PAGE, PICTURES = "cohort.html", "thumbnails"
_PIXEL_MM = 2.5
_SPARSE = 4  # every fourth slice along each axis is enough to find the best
_FAR = 3.5  # robust SDs from the median: B. Iglewicz, D. C. Hoaglin, How to Detect and Handle Outliers, 1993
_ENOUGH = 8  # cases, to say what is usual


def check_places(folder: Path) -> None:
    """Raise ValueError if something lies where the page, a file, or the pictures, a folder, are to go in `folder`."""
    if (folder / PAGE).is_dir():
        raise ValueError(f"the page of a cohort must be a file, got the folder {folder / PAGE}")
    if os.path.lexists(folder / PICTURES) and not (folder / PICTURES).is_dir():
        raise ValueError(f"the pictures of a cohort must go into a folder, got the file {folder / PICTURES}")


def save_thumbnail(folder: Path, name: str, ct: Volume, label_map_zyx: np.ndarray) -> None:
    """Save `thumbnails/NAME.png`: the coronal and the axial slice with the most organs (labels 0 to 13, on the CT)."""
    center = [_SPARSE * k for k in organ_center(label_map_zyx[::_SPARSE, ::_SPARSE, ::_SPARSE])]
    pictures = [
        slice_picture(ct.array_zyx, label_map_zyx, ct.spacing_zyx_mm, plane, center[axis], pixel_mm=_PIXEL_MM)
        for plane, axis in (("coronal", 1), ("axial", 0))
    ]
    height = max(picture.shape[0] for picture in pictures)
    same = [np.pad(picture, ((0, height - picture.shape[0]), (0, 4), (0, 0))) for picture in pictures]
    path = folder / PICTURES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as unfinished:
        imsave(unfinished, np.concatenate(same, axis=1))


def write_cohort_page(path: Path, entries: Sequence[dict[str, Any]], *, title: str = "cohort") -> None:
    """Write the page of these cases, the oddest first, complete or not at all; of no cases, a page that says so."""
    odd = [oddities(entry, entries) for entry in entries]
    order = sorted(range(len(entries)), key=lambda k: (-_weight(entries[k], odd[k]), entries[k]["name"]))
    names = ["case", "odd", "what", "s", "MiB", *(f"{organ.abbreviation} mL" for organ in ORGANS)]
    head = "".join(f'<th data-column="{k}">{html.escape(name)}</th>' for k, name in enumerate(names))
    rows = "\n".join(_row(entries[k], odd[k]) for k in order)
    n_failed = sum(entry["state"] == "failed" for entry in entries)
    cases = counted(len(entries), "case")
    about = f"{cases}, {n_failed} put aside. Click a column's name to sort by it. Not for clinical use."
    page = _PAGE.format(title=html.escape(title), about=about, head=head, rows=rows)
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8", errors="replace")  # of a file's name that is not UTF-8


def oddities(entry: dict[str, Any], entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is odd about a case among the others, in words: its error, its notes, volumes and time far off.

    Far off is more than 3.5 robust standard deviations (from the median absolute deviation) from the median of at least
    8 cases. Volumes that are 0 or cut by the scan's border do not count. Volumes and times are compared as logarithms:
    a liver of half the usual size is as odd as one of twice that size.
    """
    if entry["state"] == "failed":
        return [entry["error"]]
    done = [other for other in entries if other["state"] == "done"]
    odd = list(entry["notes"])
    for organ in ORGANS:
        if (ml := _volume(entry, organ.name)) and (usual := _far_from(ml, [_volume(e, organ.name) for e in done])):
            odd.append(f"{organ.name} {ml:.0f} mL, here usually {usual:.0f}")
    if usual := _far_from(entry["total_s"], [e["total_s"] for e in done]):
        odd.append(f"took {entry['total_s']:.1f} s, here usually {usual:.1f}")
    return odd


def _volume(entry: dict[str, Any], organ: str) -> float:
    return 0.0 if organ in entry["cut_off"] else entry["volumes_ml"].get(organ, 0.0)


def _far_from(value: float, values: Sequence[float]) -> float | None:
    """Return the median of the values above 0, if there are enough and `value` lies far from it."""
    logs = np.log([v for v in values if v > 0])
    if len(logs) < _ENOUGH or value <= 0:
        return None
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - median)))
    far = abs(np.log(value) - median) > _FAR * max(spread, 0.05)
    return float(np.exp(median)) if far else None


def _weight(entry: dict[str, Any], odd: Sequence[str]) -> int:
    return 1000 if entry["state"] == "failed" else len(odd)


def _row(entry: dict[str, Any], odd: Sequence[str]) -> str:
    name = html.escape(entry["name"])
    address = quote(entry["name"].encode(errors="surrogateescape"))  # any name that a file may have
    picture = f'<img loading="lazy" src="{PICTURES}/{address}.png" alt="">' if entry["state"] == "done" else ""
    cells = [f"<td>{picture}<br>{name}</td>", _cell(_weight(entry, odd))]
    cells.append(f"<td>{'<br>'.join(map(html.escape, odd))}</td>")
    cells += [_cell(entry.get("total_s")), _cell(entry.get("peak_mib"))]
    cells += [_cell(entry.get("volumes_ml", {}).get(organ.name)) for organ in ORGANS]
    return f'<tr class="{entry["state"]}">{"".join(cells)}</tr>'


def _cell(number: float | None) -> str:
    return "<td></td>" if number is None else f"<td data-value={json.dumps(number)}>{number:.4g}</td>"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1.5em; }}
th {{ position: sticky; top: 0; background: #fff; cursor: pointer; text-align: left; }}
td {{ vertical-align: top; border-top: 1px solid #ddd; padding: 4px 6px; font-variant-numeric: tabular-nums; }}
img {{ max-height: 130px; background: #000; }}
.failed {{ background: #fbeaea; }}
</style>
<h1>{title}</h1><p>{about}</p>
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table>
<script>
const body = document.querySelector("tbody");
for (const th of document.querySelectorAll("th")) th.onclick = () => {{
  const down = th.dataset.down !== "yes", column = th.cellIndex;
  th.dataset.down = down ? "yes" : "no";
  const value = row => {{
    const cell = row.cells[column], number = cell.dataset.value;
    return number === undefined ? cell.textContent : Number(number);
  }};
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  [...body.rows].sort((a, b) => (down ? -1 : 1) * order(value(a), value(b))).forEach(row => body.append(row));
}};
</script></html>
"""
