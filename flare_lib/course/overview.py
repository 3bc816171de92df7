"""What became of each notebook, and the page that leads to all of them."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook.

    `notebook`: with its outputs; `page`: the same as HTML. `seconds`: how long it ran, also if it was `reused` from an
    earlier run. `error`: what stopped it (cell, source, last line of the traceback), or None if it ran to the end.
    """

    name: str
    title: str
    notebook: Path
    page: Path
    seconds: float
    reused: bool = False
    error: str | None = None


def last_picture(notebook: Path) -> str | None:
    """Return the last PNG among a notebook's outputs, in base64; None if there is none."""
    pictures = [
        output["data"]["image/png"]
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return "".join(pictures[-1]).replace("\n", "") if pictures else None


def summary_page(runs: Sequence[NotebookRun]) -> str:
    """Return one HTML page on all runs: title, time, last picture, a link to each executed notebook, any error."""
    rows = []
    for run in runs:
        picture = last_picture(run.notebook)
        image = f'<img src="data:image/png;base64,{picture}" alt="the last figure">' if picture else ""
        state = f"<pre>{html.escape(run.error)}</pre>" if run.error else f"{run.seconds:.0f} s"
        link = f'<a href="{quote(run.page.name)}">{html.escape(run.title)}</a>'
        rows.append(f"<tr><td>{html.escape(run.name)}<td>{link}<td>{state}<td>{image}</tr>")
    return _PAGE.format(rows="\n".join(rows))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>flare-lib: the notebooks, executed</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
td, th {{ text-align: left; vertical-align: top; padding: .5rem 1rem .5rem 0; border-top: 1px solid #ddd; }}
img {{ max-width: 22rem; max-height: 14rem; }}
pre {{ color: #a00; white-space: pre-wrap; }}
</style>
<h1>The notebooks, executed</h1>
<table>
<tr><th>notebook<th>title<th>time<th>last figure</tr>
{rows}
</table>
</html>
"""
