"""The headless runner, on notebooks of a few lines."""

import json
import re
import sys

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from flare_lib.course.execution import (
    LIBRARY,
    NotebookFailed,
    find_notebooks,
    fingerprint,
    run_notebooks,
    share_parameters,
    workers_for,
)
from flare_lib.course.overview import NotebookRun, last_picture
from flare_lib.machine.failures import Done

FIGURE = """\
import matplotlib.pyplot as plt
plt.figure(figsize=(1, 1)).add_axes((0, 0, 1, 1)).plot([1, 2])
plt.show()"""


class Course:
    """A folder of notebooks: `course.add(name, title, *cells, parameters=...)`."""

    def __init__(self, folder):
        self.folder, self.out = folder / "notebooks", folder / "out"

    def add(self, name, title, *cells, parameters="n_steps = 2\nrate = 0.5", tag=""):
        cells = [new_markdown_cell(f"# {title}\n\nText."), *map(new_code_cell, (parameters, *cells))]
        cells[1].metadata["tags"] = ["parameters"]
        cells[-1].metadata.setdefault("tags", []).extend([tag] if tag else [])
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        self.folder.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), self.folder / f"{name}.ipynb")
        return self.folder / f"{name}.ipynb"

    def run(self, **how):
        return run_notebooks(find_notebooks(self.folder), self.out, **how)

    def printed(self, name):
        cells = nbformat.read(self.out / f"{name}.ipynb", as_version=4).cells
        return [o.text.strip() for c in cells if c.cell_type == "code" for o in c.outputs if "text" in o]


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Two notebooks that have run, once for all tests of what has come of them: a kernel takes a second to start."""
    course = Course(tmp_path_factory.mktemp("executed"))
    where = "import os, sys; print(sys.executable); print(os.path.basename(os.getcwd()))"
    course.add("00_a", "First <one>", FIGURE, where, "print(n_steps[1][0] * rate)")
    course.add("01_b", "Second", "print('no picture')", parameters="rate = 0.1")
    course.before = [path.read_bytes() for path in find_notebooks(course.folder)]
    # a kernel of the same name that some other environment has registered
    foreign = course.folder.parent / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python", "-f", "{connection_file}"], "display_name": "other", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    course.done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(foreign.parent.parent))
        course.runs = course.run(on_done=course.done.append, parameters={"n_steps": ((1, 2), (3, 4)), "rate": 8})
    return course


def test_notebooks_come_in_the_order_of_their_names_and_can_be_chosen_by_how_they_begin(course):
    for name in ("02_c", "00_a", "01_b"):
        course.add(name, name)
    assert [p.stem for p in find_notebooks(course.folder)] == ["00_a", "01_b", "02_c"]
    assert [p.stem for p in find_notebooks(course.folder, ["02", "00_a"])] == ["00_a", "02_c"]


def test_a_choice_that_fits_nothing_is_refused_with_what_there_is(course):
    course.add("00_a", "A")
    with pytest.raises(ValueError, match="one of 00_a; got '07'"):
        find_notebooks(course.folder, ["00", "07"])


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a folder with notebooks is needed, got .* without any"):
        find_notebooks(tmp_path)


def test_each_notebook_gets_the_parameters_it_knows(course):
    a, b = course.add("00_a", "A"), course.add("01_b", "B", parameters="rate = 0.1")
    assert share_parameters([a, b], {"n_steps": 7, "rate": 1}) == {a: {"n_steps": 7, "rate": 1}, b: {"rate": 1}}


def test_an_unknown_parameter_is_refused_with_the_known_ones_before_any_work(course):
    course.add("00_a", "A")
    with pytest.raises(ValueError, match=r"known to a notebook \(n_steps, rate\), got n_step"):
        course.run(parameters={"n_step": 3})
    assert not course.out.exists()


@pytest.mark.slow("starts two kernels")
def test_notebooks_run_here_in_their_own_folder_with_this_interpreter(executed):
    assert "\n".join(executed.printed("00_a")).splitlines()[:2] == [sys.executable, "notebooks"]


@pytest.mark.slow("starts two kernels")
def test_results_are_a_notebook_a_page_and_a_summary_of_all(executed):
    assert executed.done == executed.runs
    assert [(run.name, run.title, run.reused, run.error) for run in executed.runs] == [
        ("00_a", "First <one>", False, None),
        ("01_b", "Second", False, None),
    ]
    summary = (executed.out / "index.html").read_text(encoding="utf-8")
    assert '<a href="00_a.html">First &lt;one&gt;</a>' in summary
    assert '<a href="01_b.html">Second</a>' in summary
    assert summary.count("<img ") == 1
    assert last_picture(executed.out / "00_a.ipynb").startswith("iVBORw0KGgo")  # how a PNG begins, in base64
    assert last_picture(executed.out / "01_b.ipynb") is None
    assert "no picture" in (executed.out / "01_b.html").read_text(encoding="utf-8")


@pytest.mark.slow("starts two kernels")
def test_parameters_reach_the_notebook_tuples_as_lists_and_the_originals_stay_as_they_were(executed):
    assert executed.printed("00_a")[-1].splitlines()[-1] == "24"
    assert [path.read_bytes() for path in find_notebooks(executed.folder)] == executed.before


@pytest.mark.slow("starts three kernels")
def test_a_result_is_reused_until_what_it_depends_on_changes(course):
    course.add("00_a", "A", "print(n_steps)")
    [first] = course.run()
    [second] = course.run()
    assert (first.reused, second.reused, second.seconds) == (False, True, first.seconds)
    [third] = course.run(parameters={"n_steps": 9})
    assert (third.reused, course.printed("00_a")) == (False, ["9"])
    (course.out / "00_a.ipynb").write_bytes(b'{"cells": ["\xc3')  # a kill cut it short within a letter
    [fourth] = course.run()
    assert (fourth.reused, course.printed("00_a")) == (False, ["2"])


def test_a_fingerprint_changes_with_the_notebook_the_parameters_and_the_library(course, tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "module.py").write_text("A = 1")
    monkeypatch.setattr("flare_lib.course.execution.LIBRARY", library)
    path = course.add("00_a", "A")
    prints = [fingerprint(path, {}), fingerprint(path, {"rate": 1}), fingerprint(path, {"rate": "1"})]
    course.add("00_a", "B")
    prints.append(fingerprint(path, {}))
    (library / "module.py").write_text("A = 2")
    prints.append(fingerprint(path, {}))
    assert len(set(prints)) == 5
    assert fingerprint(path, {}) == prints[-1]


def test_the_library_that_a_fingerprint_covers_is_all_of_it():
    assert {path.name for path in LIBRARY.glob("*/*")} >= {"volume.py", "unet.py", "execution.py", "fine.safetensors"}


@pytest.mark.slow("starts two kernels")
def test_the_first_failure_stops_the_run_with_the_cells_own_error_and_is_not_taken_for_a_result(course):
    course.add("00_a", "A", "good = open('ran', 'a').write('x')", "values = [1, 2]\nvalues[good + 5]")
    course.add("01_b", "B")
    done = []
    for n_runs in (1, 2):
        with pytest.raises(NotebookFailed) as raised:
            course.run(on_done=done.append)
        assert str(raised.value) == (
            "00_a.ipynb stopped in cell [3]:\nvalues = [1, 2]\nvalues[good + 5]\nIndexError: list index out of range"
        )
        assert (course.folder / "ran").read_text() == n_runs * "x"
    assert done == []
    assert "IndexError: list index out of range" in (course.out / "index.html").read_text(encoding="utf-8")
    assert "IndexError" in (course.out / "00_a.html").read_text(encoding="utf-8")
    assert not (course.out / "01_b.ipynb").exists()


@pytest.mark.slow("starts a kernel")
def test_a_kernel_that_dies_is_told_apart(course):
    course.add("00_a", "A", "import os; os._exit(1)")
    with pytest.raises(NotebookFailed, match=r"00_a\.ipynb stopped: its kernel died, perhaps for want of memory"):
        course.run()


# notes when it begins and ends: one a line, so that two at a time leave whole lines
AT_WORK = """\
import os, time
def note(what):
    with open("notes", "a") as notes:
        notes.write(f"{what}\\n")
note("begin")
for _ in range(200):  # until another is there, or for want of one
    if open("notes").read().count("begin") >= %d:
        break
    time.sleep(0.05)
print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("NUMBA_NUM_THREADS"))
note("end")"""


@pytest.mark.slow("starts three processes and their kernels")
def test_notebooks_run_side_by_side_with_a_share_of_the_cores_those_that_measure_time_alone_after_them(
    course, monkeypatch
):
    monkeypatch.setattr("flare_lib.course.execution.n_cores", lambda: 6)
    course.add("00_a", "A", AT_WORK % 3, tag="timing")
    course.add("01_b", "B", AT_WORK % 2)
    course.add("02_c", "C", AT_WORK % 2)
    told = []
    runs = course.run(workers=2, progress=lambda *now: told.append(now))
    names = ["00_a", "01_b", "02_c"]
    assert [(run.name, run.reused, run.error) for run in runs] == [(name, False, None) for name in names]
    assert (course.folder / "notes").read_text().split() == ["begin", "begin", "end", "end", "begin", "end"]
    assert course.printed("01_b") == course.printed("02_c") == ["3 3"]
    assert told[0] == (0, 3, ["01_b", "02_c"])
    assert told[1] in [(1, 3, ["01_b"]), (1, 3, ["02_c"])]
    assert told[2:] == [(2, 3, []), (2, 3, ["00_a"]), (3, 3, [])]
    summary = (course.out / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="(\w+)\.html">', summary) == names
    assert [run.reused for run in course.run(workers=2)] == [True, True, True]


@pytest.mark.slow("starts two processes and their kernels")
def test_a_failure_beside_others_names_its_notebook_and_ends_the_others_with_their_kernels(course):
    course.add("00_a", "A", "import os; open('pid', 'w').write(str(os.getpid()))\nimport time; time.sleep(600)")
    course.add("01_b", "B", "import os, time\nwhile not os.path.exists('pid'): time.sleep(0.05)\n1 / 0")
    with pytest.raises(NotebookFailed, match=r"^01_b\.ipynb stopped in cell \[2\]:(.|\n)*division by zero$"):
        course.run(workers=2)
    kernel = int((course.folder / "pid").read_text())
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(kernel).wait(10)
        psutil.Process(kernel)
    assert re.findall(r'<a href="(\w+)\.html">', (course.out / "index.html").read_text()) == ["01_b"]


def test_what_runs_side_by_side_is_all_that_measures_no_time_and_then_each_of_the_others(course, monkeypatch):
    for name, tag in (("00_a", "timing"), ("01_b", ""), ("02_c", "timing"), ("03_d", ""), ("04_e", "")):
        course.add(name, name, tag=tag)
    groups, told = [], []

    def run(work, tasks, pool):  # in no process
        groups.append(([path.stem for path, _ in tasks], pool and pool.n_slots()))
        for k in reversed(range(len(tasks))):
            path = tasks[k][0]
            yield k, Done(NotebookRun(path.stem, "", path, path, 1.0), 1.0, 0.0)

    monkeypatch.setattr("flare_lib.course.execution.runner.run", run)
    runs = course.run(workers=2, progress=lambda *now: told.append(now))
    assert groups == [(["01_b", "03_d", "04_e"], 2), (["00_a", "02_c"], None)]
    assert [run.name for run in runs] == ["00_a", "01_b", "02_c", "03_d", "04_e"]
    assert [now for now in told if now[0] in (0, 3)] == [(0, 5, ["01_b", "03_d"]), (3, 5, []), (3, 5, ["00_a"])]
    groups.clear()
    course.run(workers=1)
    assert groups == [(["00_a", "01_b", "02_c", "03_d", "04_e"], None)]


def test_as_many_run_side_by_side_as_there_are_cores_and_memory_for(monkeypatch):
    monkeypatch.setattr("flare_lib.course.execution.n_cores", lambda: 4)
    monkeypatch.setattr("flare_lib.course.execution.free_memory_mib", lambda: 100_000.0)
    assert [workers_for(n) for n in (1, 3, 11)] == [1, 3, 4]
    monkeypatch.setattr("flare_lib.course.execution.free_memory_mib", lambda: 7000.0)
    assert workers_for(11) == 2
    monkeypatch.setattr("flare_lib.course.execution.free_memory_mib", lambda: 500.0)
    assert workers_for(11) == 1


def test_notebooks_are_not_executed_onto_themselves(course):
    course.add("00_a", "A")
    before = (course.folder / "00_a.ipynb").read_bytes()
    with pytest.raises(ValueError, match="executed notebooks must go into another folder than their own, got"):
        run_notebooks(find_notebooks(course.folder), course.folder)
    assert (course.folder / "00_a.ipynb").read_bytes() == before


def test_fewer_than_no_workers_are_refused(course):
    course.add("00_a", "A")
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        course.run(workers=-1)
