"""Mutation testing: a fixed random sample of small changes to the library, and how many of them no test notices.

    make mutants                          # 60 mutants of each folder; its duration depends on how many survive
    make mutants SAMPLE='--seed 2'        # 60 others
    make mutants SAMPLE='--folders network inference --each 15'   # of these alone: the others keep their results
    make mutants SAMPLE='--each 100000'   # all of them: days

Each mutant is the library with one small change in it, made by mutmut (`[tool.mutmut]` in pyproject.toml says of which
modules) and judged by the tests of its own module alone, tests/FOLDER/test_MODULE.py, until one fails: other tests may
notice more. A crash, a hang and a failed import also count as noticed. mutmut leaves decorated functions as they are:
properties, and what numba compiles. Tests marked `slow` do not run, and LEFT_OUT are modules whose tests all take long.

results/mutants.json has the counts of every folder, with its seed, and the changes that nobody noticed. Where no test
could notice one, because the program does the same as before, `equivalent` there says why: written by hand, it stays
until the changed line does not.
Linux and macOS: every mutant has a forked process of its own, in which torch and pytest are loaded already.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "mutants"  # mutmut's folder: the library with all mutants in it, and a copy of the tests
RESULT = Path(__file__).parent / "results" / "mutants.json"
LIMIT_CPU_S = 120  # a mutant that takes longer hangs
PASSED = 0  # pytest's exit code
FOLDERS = ("ct", "evaluation", "inference", "network")
LEFT_OUT = {  # modules whose tests take too long to be run for every mutant
    "flare_lib.evaluation.ablations": "trains nets",
    "flare_lib.evaluation.efficiency": "starts and watches programs",
    "flare_lib.inference.cohort_run": "starts and kills processes",
    "flare_lib.inference.slice_triton": "runs in Triton's interpreter",
}
PYTEST = ("-q", "-p", "no:cacheprovider", "--rootdir=.")


def mutants_by_name(folder: Path) -> list[str]:
    """Return the names of the mutants that mutmut has written, such as `flare_lib.ct.roi.x_crop__mutmut_1`."""
    metas = sorted(folder.rglob("*.meta"))
    names = [name for path in metas for name in json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]]
    return [name for name in names if name.rpartition(".")[0] not in LEFT_OUT]


def chapter_of(name: str) -> str:
    """Return a mutant's folder: for `flare_lib.ct.roi.x_crop__mutmut_1` it is ct."""
    return name.split(".")[1]


def function_of(name: str) -> str:
    """Return the function that a mutant changes: `flare_lib.ct.roi.x_crop`."""
    return name.rpartition("__mutmut_")[0]


def tests_of(name: str) -> str:
    """Return the tests of a mutant's module: for `flare_lib.ct.roi.x_crop__mutmut_1` tests/ct/test_roi.py."""
    _, chapter, module, _ = name.split(".", 3)
    return f"tests/{chapter}/test_{module}.py"


def sample(names: Iterable[str], each: int, seed: int) -> list[str]:
    """Return up to `each` names of every folder, at random: a new function leaves most of the choice as it is."""

    def draw(name: str) -> str:
        return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()

    chosen: Counter[str] = Counter()
    drawn = []
    for name in sorted(names, key=draw):
        if chosen[chapter_of(name)] < each:
            chosen[chapter_of(name)] += 1
            drawn.append(name)
    return sorted(drawn)


def exit_code(name: str | None, tests: str) -> int:
    """Run tests in the folder of the mutants, in a process of their own, with one mutant in place (None: none)."""
    import resource  # not on Windows, which cannot fork either

    process = os.fork()
    if process == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_CPU_S, LIMIT_CPU_S))
        os.environ["MUTANT_UNDER_TEST"] = name or ""  # mutmut's functions ask for it at every call
        code = 1
        try:
            code = pytest.main([*PYTEST, "-x", "-m", "not slow", tests])
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def unnoticed_of(names: Iterable[str]) -> list[str]:
    """Return the mutants with which the tests of their module still pass, and print what each module takes.

    Raises RuntimeError if tests fail without any mutant.
    """
    unnoticed = []
    for tests, mutants in groupby(sorted(names, key=tests_of), key=tests_of):
        began = _cpu_s_of_children()
        code = exit_code(None, tests)
        if code != PASSED:
            raise RuntimeError(f"{tests}: must pass without a mutant, got pytest's exit code {code}")
        alone = _cpu_s_of_children() - began
        codes = {name: exit_code(name, tests) for name in mutants}
        here = [name for name, code in codes.items() if code == PASSED]
        unnoticed += here
        spent = _cpu_s_of_children() - began
        print(
            f"{tests}: {len(codes)} mutants, {len(here)} unnoticed, CPU {alone:.1f} + {spent - alone:.1f} s", flush=True
        )
    return unnoticed


def _cpu_s_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def change_of(name: str) -> str:
    """Return the lines that a mutant takes away and puts in their place."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    lines = get_diff_for_mutant(name).splitlines()[2:]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines if line[:1] in ("-", "+"))


def reasons(path: Path) -> dict[tuple[str, str], str]:
    """Return {(function, change): why no test could notice it}, as the last result has them; none without a file."""
    if not path.exists():
        return {}
    last = json.loads(path.read_text(encoding="utf-8"))
    every = [*last["unnoticed"], *last.get("of_other_samples", [])]
    return {(function_of(one["name"]), one["change"]): one["equivalent"] for one in every if one["equivalent"]}


def of_other_samples(path: Path, unnoticed: list[dict]) -> list[dict]:
    """Return the equivalent mutants of the last result that this one does not have: their reasons are kept."""
    if not path.exists():
        return []
    last = json.loads(path.read_text(encoding="utf-8"))
    here = {(function_of(one["name"]), one["change"]) for one in unnoticed}
    every = [*last["unnoticed"], *last.get("of_other_samples", [])]
    return [one for one in every if one["equivalent"] and (function_of(one["name"]), one["change"]) not in here]


def counts(names: Iterable[str], unnoticed: list[dict]) -> dict[str, dict[str, int]]:
    """Return {folder: its numbers of mutants, of those noticed, and of those that no test could notice}."""
    folders: dict[str, dict[str, int]] = {}
    for folder, n in sorted(Counter(map(chapter_of, names)).items()):
        here = [one for one in unnoticed if chapter_of(one["name"]) == folder]
        n_equivalent = sum(bool(one["equivalent"]) for one in here)
        folders[folder] = {"mutants": n, "noticed": n - len(here), "equivalent": n_equivalent}
    return folders


def merged(path: Path, folders: dict[str, dict[str, int]], unnoticed: list[dict]) -> dict:
    """Return the last result with these folders and what nobody noticed in them in the place of what it had of them."""
    last = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"folders": {}, "unnoticed": []}
    kept = [one for one in last["unnoticed"] if chapter_of(one["name"]) not in folders]
    every = sorted([*kept, *unnoticed], key=lambda one: one["name"])
    others = of_other_samples(path, every)
    return {
        "folders": dict(sorted((last["folders"] | folders).items())),
        "unnoticed": every,
        "of_other_samples": others,
    }


def table(folders: dict[str, dict[str, int]]) -> list[str]:
    """Return the rows of a Markdown table, one per folder; the share is of those that a test could notice."""
    rows = ["| folder | mutants | noticed | equivalent | share noticed |", "|---|---|---|---|---|"]
    for folder, n in folders.items():
        others = n["mutants"] - n["equivalent"]
        share = f"{n['noticed'] / others:.0%}" if others else "-"
        rows.append(f"| {folder} | {n['mutants']} | {n['noticed']} | {n['equivalent']} | {share} |")
    return rows


def write_mutants() -> list[str]:
    """Have mutmut write the mutants of the library as it is now, and return their names."""
    from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants

    MUTANTS.mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    create_mutants(os.cpu_count() or 1)
    return mutants_by_name(MUTANTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=60, help="how many mutants of each folder")
    parser.add_argument("--seed", type=int, default=1, help="which of them")
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=FOLDERS, help="of which folders")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these mutants; nothing is stored")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # torch then has no threads that a forked process would lack
    os.chdir(ROOT)
    every = write_mutants()
    every = [name for name in every if chapter_of(name) in arguments.folders]
    names = arguments.only or sample(every, arguments.each, arguments.seed)

    sys.path[:0] = [str(MUTANTS), str(MUTANTS / "benchmarks")]
    os.chdir(MUTANTS)
    pytest.main([*PYTEST, "-qqq", "--collect-only", *{tests_of(name) for name in names}])  # loads what they import
    survivors = unnoticed_of(names)
    os.chdir(ROOT)

    known = reasons(RESULT)
    unnoticed = []
    for name in survivors:
        change = change_of(name)
        unnoticed.append({"name": name, "change": change, "equivalent": known.get((function_of(name), change))})
    folders = counts(names, unnoticed)
    if not arguments.only:
        of = Counter(map(chapter_of, every))
        drawn = {folder: {"of": of[folder], "seed": arguments.seed, **n} for folder, n in folders.items()}
        result = {"left_out": LEFT_OUT} | merged(RESULT, drawn, unnoticed)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    to_notice = [f"{one['name']}\n{one['change']}" for one in unnoticed if not one["equivalent"]]
    print(*to_notice, *table(folders), sep="\n")


if __name__ == "__main__":
    main()
