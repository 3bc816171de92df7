"""Dask's workers as a pool: what is killed, hangs or is lost there; batch jobs by a stand-in for SLURM."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pieces import half, killed_at_3, late_at_3, process_of, said

from flare_lib.machine.cluster import DaskWorkers, slurm_cluster
from flare_lib.machine.failures import Done
from flare_lib.machine.processes import KILLED
from flare_lib.machine.runner import run

distributed = pytest.importorskip("distributed")


def results(outcomes):
    return sorted((k, o.result if isinstance(o, Done) else o.reason) for k, o in outcomes)


# the server of a scheduler's pages takes any port that is free, for another scheduler may run here
HERE = {"processes": False, "dashboard_address": None, "scheduler_kwargs": {"dashboard_address": ":0"}}


@pytest.fixture(scope="module")
def cluster():
    """Two threads of one worker in this process: the processes beside them are what matters."""
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **HERE) as cluster:
        yield cluster


@pytest.fixture
def pool(cluster):
    with DaskWorkers(cluster.scheduler_address, patience_s=5) as pool:
        yield pool


def test_work_is_done_by_processes_beside_the_workers(pool):
    assert pool.n_slots() == 4
    assert results(run(half, [8, 7, 6], pool)) == [(0, 4), (1, "an item must be even, got 7"), (2, 3)]
    [(_, pid)] = results(run(process_of, [0], pool))
    assert pid != os.getpid()


@pytest.mark.slow("processes that are killed, and one that hangs for seconds")
def test_what_is_killed_or_hangs_there_costs_the_others_nothing(pool):
    assert results(run(killed_at_3, [2, 3, 4], pool)) == [(0, 2), (1, KILLED.reason), (2, 4)]
    late = results(run(late_at_3, [3, 4], pool, time_limit_s=2.0))
    assert late == [(0, "it must end within 2 s, got no result"), (1, 4)]


def test_a_worker_that_dies_in_the_middle_costs_no_case_and_none_is_told_twice():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **HERE) as cluster,
        DaskWorkers(cluster.scheduler_address, patience_s=5) as pool,
    ):
        outcomes = run(half, [*range(0, 24, 2), 7], pool)
        told = [next(outcomes)]
        cluster.sync(cluster.workers[0].close, executor_wait=False, nanny=False)
        told.extend(outcomes)
    assert results(told) == [(k, k) for k in range(12)] + [(12, "an item must be even, got 7")]


def test_a_scheduler_is_waited_for_with_a_note_and_then_refused():
    notes = []
    with pytest.raises(OSError, match=r"a Dask scheduler must answer at tcp://127.0.0.1:9, got no answer"):
        DaskWorkers("tcp://127.0.0.1:9", patience_s=0.2, on_note=notes.append)
    assert notes == ["no Dask scheduler answers at tcp://127.0.0.1:9; waiting for 0.2 s at most"]


@pytest.mark.parametrize("address", ["nowhere://x:1", "there", "tcp://there", "tcp://there:port"])
def test_what_is_no_address_is_refused_before_there_is_a_client(address, monkeypatch):
    monkeypatch.setattr(distributed, "Client", None)
    with pytest.raises(ValueError, match=f"the scheduler must be tcp://HOST:PORT, got {address} "):
        DaskWorkers(address, patience_s=0.2)


def test_an_address_that_dask_does_not_know_how_to_reach_is_refused():
    with pytest.raises(ValueError, match=r"Dask must know how to reach tls://127.0.0.1:9, got TLS expects"):
        DaskWorkers("tls://127.0.0.1:9", patience_s=0.2)


def test_an_address_of_another_form_is_left_to_dask(monkeypatch):
    monkeypatch.setitem(distributed.comm.registry.backends, "own", distributed.comm.registry.Backend)
    asked = []
    monkeypatch.setattr(distributed, "Client", lambda address, **_: asked.append(address))
    DaskWorkers("own://any/form")
    assert asked == ["own://any/form"]


SBATCH = """#!/bin/sh
cp "$1" {folder}/submitted.sh
setsid sh {folder}/submitted.sh > {folder}/job.log 2>&1 &
echo $! > {folder}/pid
echo Submitted batch job 4711
"""
SCANCEL = """#!/bin/sh
echo "$@" >> {folder}/cancelled
kill -- -$(cat {folder}/pid)
"""


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no SLURM")


@on_linux
@pytest.mark.slow("a batch job, which starts a worker and its process")
def test_batch_jobs_of_slurm_work_and_are_ended(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / "bin" / name).write_text(script.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    (tmp_path / "my environment").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my environment" / "bin" / Path(sys.executable).name))
    settings = {"cores": 3, "memory": "2GB", "queue": "night", "interface": "lo"}
    settings["local_directory"] = str(tmp_path)
    with slurm_cluster(1, settings) as cluster, DaskWorkers(cluster) as pool:
        assert results(run(said, [5], pool)) == [(0, (5, "3"))]
        script = cluster.job_script()
    assert (tmp_path / "submitted.sh").read_text() == script.replace("dummy-name", "SLURMCluster-0")
    assert (tmp_path / "cancelled").read_text().split() == ["4711"]
    lines = script.splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")][1:] == [
        "#SBATCH -p night",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --mem=2G",
        "#SBATCH -t 00:30:00",
    ]
    assert "export OMP_NUM_THREADS=3" in lines


@on_linux
def test_jobs_that_slurm_refuses_are_told_in_its_own_words(tmp_path, monkeypatch, caplog):
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho sbatch: error: Invalid account >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = "SLURM must take a batch job, got 2 of 2 refused: sbatch: error: Invalid account$"
    with pytest.raises(OSError, match=said), slurm_cluster(2, {"interface": "lo"}):
        pass
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []  # the story is told once


@on_linux
@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("echo sbatch: error: QOSMaxSubmitJobPerUserLimit >&2; exit 1", "sbatch: error: QOSMaxSubmitJobPerUserLimit"),
        (
            "echo Submitted",
            "sbatch must say the job's number, got 'Submitted'; if there is such a job, scancel must end it",
        ),
    ],
    ids=["refused", "without a number"],
)
def test_the_jobs_that_slurm_takes_are_kept_beside_those_that_it_refuses(tmp_path, monkeypatch, other, said):
    sbatch = f"if mkdir {tmp_path / 'taken'} 2> {os.devnull}; then echo Submitted batch job 4711; else {other}; fi"
    for name, script in (("sbatch", sbatch), ("scancel", f'echo "$@" >> {tmp_path / "cancelled"}')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    notes = []
    with slurm_cluster(3, {"interface": "lo"}, on_note=notes.append) as cluster:
        assert notes == [f"SLURM refused 2 of 3 batch jobs: {said}"]
        kept = list(cluster._created)  # Dask asks of each that is still held whether it has ended
        assert not (tmp_path / "cancelled").exists()
    assert (tmp_path / "cancelled").read_text().split() == ["4711"]
    assert {job.status.name for job in kept} == {"closed"}


@on_linux
def test_batch_jobs_need_slurm_and_what_would_be_submitted_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = "batch jobs need SLURM's sbatch on this computer, got none"
    with pytest.raises(FileNotFoundError, match=said), slurm_cluster(1, {"interface": "lo"}):
        pass
    with slurm_cluster(0, {"interface": "lo"}) as cluster:
        assert "#SBATCH" in cluster.job_script()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"colour": "red"}, r"the settings of a job must be among .*walltime.*, got colour"),
        ({"cores": "four"}, "cores must be a whole number, 1 or more, got 'four'"),
        ({"cores": 0}, "cores must be a whole number, 1 or more, got 0"),
    ],
)
def test_settings_that_no_job_has_are_refused(settings, said):
    with pytest.raises(ValueError, match=said), slurm_cluster(0, settings):
        pass


def test_ctrl_c_interrupts_as_before_once_dask_jobqueue_is_loaded(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "dask_jobqueue"]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(ValueError, match="got colour"), slurm_cluster(0, {"colour": "red"}):
            pass
        assert "dask_jobqueue.runner" in sys.modules
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_dask_the_extra_is_named():
    script = (
        "import sys; sys.modules['distributed'] = None\n"
        "from flare_lib.machine.cluster import DaskWorkers; DaskWorkers('tcp://127.0.0.1:9')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "distributed must be installed (pip install 'flare-lib[cluster]'), got no such package" in run.stderr
