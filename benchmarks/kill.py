"""Jobs killed at random moments (kill -9) and started again: is anything lost, half-written or different in the end?

    python benchmarks/kill.py               # 50 moments of each of four jobs, 200 in all
    python benchmarks/kill.py --moments 2   # a short form

The jobs, all small: `flare segment` over ten CTs, `flare train`, preparing ten cases, and fetching the sample from a
stand-in for the package index. Each is killed at a random moment within the time it takes undisturbed, and checked: any
file under its own name must be whole, that is, equal bit for bit to what the undisturbed job left (a checkpoint, which
has no counterpart there, must load), and anything complete before must still be there. Then the same job is started
again on what was left, until it ends; now everything must be there and equal, and the folder is emptied for the next
round. Linux and macOS only: the jobs are forks of this process, which has the library loaded.
Results go to `benchmarks/results/kill.json`.
"""

import argparse
import functools
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from measure import machine, store

from flare_lib import cli
from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.preprocess import Preprocessing
from flare_lib.ct.volume import Volume
from flare_lib.data.archives import Archive
from flare_lib.data.cohort import find_cases
from flare_lib.data.prepared import prepare_cases
from flare_lib.data.sources import Cache, fetch_sample
from flare_lib.network.unet import UNet
from flare_lib.network.weights import save_trained
from flare_lib.training import stage

RESULTS = Path(__file__).parent / "results" / "kill.json"
SPACING = (8.0, 7.0, 6.0)
PATCH = (8, 16, 16)  # of training; when segmenting, the nets see a CT in few tiles
WHOLE = (24, 32, 36)
NET = {"features_per_stage": (4, 6, 8), "strides": ((2, 2, 2), (1, 2, 2)), "n_heads": 2}
N_CTS = 10
JOBS = ("segment", "train", "prepare", "fetch")


@dataclass(frozen=True)
class Job:
    """Something that writes into a folder, and which of its files come out the same every time."""

    run: Callable[[Path], object]
    is_result: Callable[[Path], bool] = lambda path: True


def organ_map(rng: np.random.Generator) -> np.ndarray:
    """Return labels (Z, Y, X) of a few organs in the middle of a body."""
    labels = np.zeros((24, 30, 36), np.uint8)
    for organ in (1, 3, 5, 11):
        z, y, x = (int(rng.integers(4, n - 12)) for n in labels.shape)
        labels[z : z + 7, y : y + 8, x : x + 8] = organ
    return labels


def write_inputs(folder: Path, n_cts: int) -> Archive:
    """Write CTs, labels, nets, a person to paint and the stand-in for the index's archive; return what this holds."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels", "persons", "nets", "index"):
        (folder / part).mkdir()
    for k in range(n_cts):
        labels = organ_map(rng)
        hu = np.where(labels > 0, 60, -80) + rng.integers(-20, 20, labels.shape)
        hu[:, :3] = hu[:, :, -3:] = -1000
        ct = Volume.from_array(hu.astype(np.int16), SPACING)
        save_ct(folder / "images" / f"c{k}_0000.nii.gz", ct)
        save_label_map(folder / "labels" / f"c{k}.nii.gz", labels, ct)
    torch.manual_seed(0)
    for name, normalisation in (("coarse", {}), ("fine", {"mean_hu": 0.0, "sd_hu": 100.0})):
        card = {"preprocessing": Preprocessing(SPACING, **normalisation).to_dict(), "patch_size": WHOLE}
        save_trained(folder / "nets" / name, UNet(**NET).eval(), card)
    save_label_map(folder / "persons" / "s1_totalseg117.nii.gz", labels, ct)
    (folder / "persons" / "names.json").write_text('{"1": "liver", "3": "spleen", "5": "aorta", "11": "stomach"}')
    structures = np.where(labels == 1, 5, labels)
    save_ct(folder / "index" / "ct.nii.gz", ct)
    save_label_map(folder / "index" / "structures.nii.gz", structures, ct)
    files = {"abdomen_ct.nii.gz": "ct.nii.gz", "abdomen_117_structures.nii.gz": "structures.nii.gz"}
    members = {}
    with tarfile.open(folder / "index" / "small-1.0.tar.gz", "w:gz") as tar:
        for name, file in files.items():
            content = (folder / "index" / file).read_bytes()
            member = tarfile.TarInfo(f"small-1.0/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            members[name] = (member.name, hashlib.sha256(content).hexdigest())
    return Archive("small", "1.0", sha256(folder / "index" / "small-1.0.tar.gz"), members)


def jobs(inputs: Path, archive: Archive, *, n_steps: int) -> dict[str, Job]:
    """Return the four jobs."""
    cts = sorted(map(str, (inputs / "images").iterdir()))
    settings = [f"{name}={value}" for name, value in NET.items()]
    settings += [f"n_steps={n_steps}", f"patch_size={PATCH}", f"spacing_zyx_mm={SPACING}", "batch_size=1"]
    settings += ["n_unlabelled=0", 'sources={"label_maps": 1.0}']
    often = functools.partial(stage.train, checkpoint_every=5)

    def segment(out: Path) -> None:
        flare("segment", *cts, "-o", out, "--weights-dir", inputs / "nets", "--workers", "0")

    def train(out: Path) -> None:
        given = ["--preset", "course", "--label-maps", inputs / "persons", "--device", "cpu", "--workers", "0"]
        with mock.patch.object(stage, "train", often):
            flare("train", "coarse", *given, "-o", out, *(part for s in settings for part in ("--set", s)))

    def prepare(out: Path) -> None:
        prepare_cases(find_cases(inputs), out, Preprocessing((7.0, 6.0, 5.0)), around="organs")

    def fetch(out: Path) -> None:
        fetch_sample(Cache(out, archive=archive, download=download))

    def download(archive: Archive, folder: Path) -> Path:
        content = (inputs / "index" / "small-1.0.tar.gz").read_bytes()
        with (folder / "small-1.0.tar.gz").open("wb") as file:
            for start in range(0, len(content), 4096):  # a slow connection, so that there is something to kill
                file.write(content[start : start + 4096])
                file.flush()
                time.sleep(0.005)
        return folder / "small-1.0.tar.gz"

    return {
        "segment": Job(segment, lambda path: path.name.endswith(".nii.gz")),
        "train": Job(train, lambda path: path.name == "coarse.safetensors"),
        "prepare": Job(prepare),
        "fetch": Job(fetch),
    }


def flare(*arguments: object) -> None:
    """Run a command; RuntimeError unless it succeeds."""
    if code := cli.run([str(argument) for argument in arguments]):
        raise RuntimeError(f"flare {arguments[0]} must end with 0, got {code}")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results(job: Job, folder: Path) -> dict[str, str]:
    """Return {path: SHA-256} of the files a job left under their own names; unfinished ones are hidden."""
    paths = [path for path in folder.rglob("*") if path.is_file() and job.is_result(path)]
    names = {path: path.relative_to(folder) for path in paths}
    return {str(name): sha256(path) for path, name in names.items() if not any(p.startswith(".") for p in name.parts)}


def run(job: Job, folder: Path, seconds: float | None = None) -> bool:
    """Do a job in a process of its own, killed after so many seconds; return whether it got to the end."""
    child = os.fork()
    if child == 0:
        try:
            multiprocessing.set_start_method("fork", force=True)  # locks then have no names, which a kill would leave
            silence = os.open(os.devnull, os.O_WRONLY)
            terminal = os.dup(2)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            job.run(folder)
        except BaseException as error:
            os.write(terminal, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    ends = None if seconds is None else time.monotonic() + seconds
    while ends is None or time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError("a job that nobody kills must end well")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def kill_often(job: Job, folder: Path, n_moments: int, rng: np.random.Generator) -> dict[str, object]:
    """Kill a job at this many moments, start it again each time, and count what was not as it must be."""
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    began = time.monotonic()
    run(job, undisturbed)
    takes = time.monotonic() - began
    expected = results(job, undisturbed)
    counts = {"kills": 0, "rounds": 0, "lost": 0, "half_written": 0, "different_in_the_end": 0}
    unfinished = 0
    while counts["kills"] < n_moments:
        out = folder / f"round{counts['rounds']}"
        out.mkdir()
        complete: set[str] = set()
        while counts["kills"] < n_moments and not run(job, out, rng.uniform(0, takes)):
            counts["kills"] += 1
            there = results(job, out)
            counts["half_written"] += sum(expected.get(name) != digest for name, digest in there.items())
            counts["lost"] += len(complete - set(there))
            complete = set(there)
        run(job, out)
        counts["different_in_the_end"] += results(job, out) != expected
        counts["rounds"] += 1
        unfinished += sum(path.name.startswith(".") for path in out.rglob("*"))
    return counts | {"hidden_leftovers": unfinished, "undisturbed_s": round(takes, 2), "files": len(expected)}


def measure(
    n_moments: int, *, n_cts: int = N_CTS, n_steps: int = 40, names: Sequence[str] = JOBS
) -> dict[str, dict[str, object]]:
    """Return the counts for each job named, killed at this many moments, and print them as they come."""
    torch.set_num_threads(
        1
    )  # a fork must not inherit locks held by threads, and a single thread always adds in the same order
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs"
        inputs.mkdir()
        archive = write_inputs(inputs, n_cts)
        for number, (name, job) in enumerate(jobs(inputs, archive, n_steps=n_steps).items()):
            if name not in names:
                continue
            folder = Path(scratch) / name
            folder.mkdir()
            _prepare(job, _fresh(folder / "before"))
            found[name] = kill_often(job, folder, n_moments, np.random.default_rng([0, number]))
            print(
                f"{name:10}", ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in found[name].items()), flush=True
            )
    return found


def _prepare(job: Job, folder: Path) -> None:
    """Do a job once, so that nothing is left to compile, and load here what it loaded: its forks then only work."""

    def noted(out: Path) -> None:
        job.run(out)
        (folder / "modules.json").write_text(json.dumps(list(sys.modules)), encoding="utf-8")

    run(Job(noted), _fresh(folder / "out"))
    for name in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        with suppress(ImportError):  # what a package only calls a module
            importlib.import_module(name)


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50, help="of each job")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="the others keep their stored results")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    stored = json.loads(options.out.read_text(encoding="utf-8"))["jobs"] if options.out.exists() else {}
    found = stored | measure(options.moments, names=options.jobs)
    store(options.out, {"machine": machine(), "jobs": found})


if __name__ == "__main__":
    main()
