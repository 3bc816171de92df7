"""A list of CTs as a file: one CT a row, a column `ct` and perhaps a column `name`.

As spreadsheets of any country save it: .csv in UTF-8 or as Excel saves Unicode text, or .tsv; its columns parted by
comma, semicolon or tab.
"""

import codecs
import csv
import io
import os
from pathlib import Path, PureWindowsPath

from flare_lib.machine.counted import counted
from flare_lib.machine.home_folder import at_home

LIST_SUFFIXES = (".csv", ".tsv")
_PART_CELLS = {",": "comma", ";": "semicolon", "\t": "tab"}


def read_list(path: Path) -> list[tuple[str | None, Path]]:
    """Return the name, or None, and the place of every CT in a list.

    Places are relative to the list's own folder; `~` is the home folder. A place that leads nowhere is returned as it
    is: the list may have been written on another computer. Raises ValueError, naming the line, for a list without one
    column `ct`, with a row that has no CT or more cells than columns, or in another encoding; FileNotFoundError for a
    list of nothing.
    """
    text = _text_of(path)
    first = next((line for line in text.splitlines() if not _says_nothing([line])), "")
    by_tabs = path.suffix.lower() == ".tsv" and ("\t" in first or not {*",;"} & {*first})
    delimiter = "\t" if by_tabs else max(_PART_CELLS, key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    found: list[tuple[str | None, Path]] = []
    try:
        columns = [name.strip().lower() for name in next((row for row in rows if not _says_nothing(row)), [])]
        if columns.count("ct") != 1 or columns.count("name") > 1:
            raise ValueError(
                f"{path} must have one column ct, and at most one name, got {', '.join(columns) or 'none'}"
            )
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                raise ValueError(
                    f"{path} must have {counted(len(columns), 'column')}, got {len(cells)} in line {rows.line_num} "
                    f"(a cell that contains a {_PART_CELLS[delimiter]} must be quoted)"
                )
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
            if not row.get("ct"):
                raise ValueError(f"{path} must name a CT in every row, got none in line {rows.line_num}")
            found.append((row.get("name") or None, _meant(path.parent, row["ct"])))
    except csv.Error as error:
        raise ValueError(f"{path} must be a list, .csv or .tsv, got: {error} in line {rows.line_num}") from error
    if not found:
        raise FileNotFoundError(f"{path} must list CTs, got none")
    return found


def _says_nothing(cells: list[str]) -> bool:
    """Return whether a row above the columns' names is empty, or `sep=;`, which tells Excel what parts cells."""
    return not any(cell.strip() for cell in cells) or cells[0].strip().lower().startswith("sep=")


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        n_line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} must be text in UTF-8, got another encoding in line {n_line}") from error
    if "\0" in text:
        raise ValueError(f"{path} must be text, got a NUL character")
    return text


def _meant(folder: Path, written: str) -> Path:
    """Return the file that a list means, even if the list was written on Windows and is read elsewhere."""
    as_here, as_on_windows = (folder / at_home(text, folder) for text in (written, PureWindowsPath(written).as_posix()))
    return as_on_windows if os.path.lexists(as_on_windows) and not os.path.lexists(as_here) else as_here
