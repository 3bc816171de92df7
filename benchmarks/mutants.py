"""Mutation testing: what `mutmut run` found, as a table. Each mutant is the library with one small change in it.

    make mutants                  # a fifth of the mutants, those whose number ends in 3 or 7; hours on 2 cores
    make mutants MUTANTS='*'      # all of them
    python benchmarks/mutants.py  # the table and the names of the survivors; `mutmut show NAME` shows the change

A killed mutant is one that makes a test fail; a timeout, a crash and a failed import also count as killed. mutmut does
not change decorated functions: what numba compiles is checked by comparison with torch and numpy, voxel by voxel.
"""

import json
from collections import Counter
from pathlib import Path

MUTANTS = Path(__file__).parents[1] / "mutants"
UNTOUCHED = (None, 2, 34, 37)  # mutmut's exit codes: not run, stopped by the user, skipped
UNNOTICED = (0, 5, 33)  # the tests passed, or none of them calls the function


def outcomes(folder: Path) -> dict[str, int]:
    """Return {mutant's name: exit code of its tests} for the mutants that were run."""
    codes: dict[str, int] = {}
    for path in sorted(folder.rglob("*.meta")):
        codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return {name: code for name, code in codes.items() if code not in UNTOUCHED}


def chapter_of(name: str) -> str:
    """Return a mutant's folder: for `flare_lib.ct.roi.x_crop__mutmut_1` it is ct."""
    return name.split(".")[1]


def table(codes: dict[str, int]) -> list[str]:
    """Return the rows of a Markdown table, one per folder."""
    every = Counter(map(chapter_of, codes))
    unnoticed = Counter(chapter_of(name) for name, code in codes.items() if code in UNNOTICED)
    rows = ["| folder | mutants | killed | share |", "|---|---|---|---|"]
    for folder, n in sorted(every.items()):
        killed = n - unnoticed[folder]
        rows.append(f"| {folder} | {n} | {killed} | {killed / n:.1%} |")
    return rows


def main() -> None:
    codes = outcomes(MUTANTS)
    print(*sorted(name for name, code in codes.items() if code in UNNOTICED), sep="\n")
    print(*table(codes), sep="\n")


if __name__ == "__main__":
    main()
