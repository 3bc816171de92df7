"""The same net on the same CT, by nnU-Net's own predictor and by flare-lib: agreement, seconds, memory.

    python benchmarks/against_nnunet.py --nnunet-python ENV/bin/python               # the packaged fine net, the sample
    python benchmarks/against_nnunet.py --nnunet-python ... --ct a.nii.gz ...        # CTs of your own instead
    python benchmarks/against_nnunet.py --nnunet-python ... --results FOLDER         # a model of your own, fold 0
    python benchmarks/against_nnunet.py --nnunet-python ... --paper                  # the paper's net, random weights
    python benchmarks/against_nnunet.py --nnunet-python ... --arms openvino "openvino, --roi"    # only some of ours
    python benchmarks/against_nnunet.py --nnunet-python ... --mirror                 # also with nnU-Net's mirroring
    python benchmarks/against_nnunet.py --nnunet-python ... --record                 # renew what a test remembers

nnU-Net is not among flare-lib's dependencies; it lives in an environment of its own:

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 nnunetv2==2.8.1

The packaged fine net is exported to a results folder, which both programs then read. nnU-Net runs without mirroring;
flare-lib runs in float32, as nnU-Net does on a CPU, in the processor's own format, computed by OpenVINO, and with the
region found first (`--roi`), there also with tiles that just touch; and with tiles fitted to the image. Every run is a
process of its own; seconds are from the CT's file to the labels in memory, with the nets loaded. Each run is printed
when it is done. Results go to `benchmarks/results/against_nnunet.json` and, as a table, to the terminal.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from measure import in_a_process, machine, status_mib, store
from small_nnunet import small_ct, write_results

from flare_lib.ct.files import load_ct, load_label_map, save_label_map
from flare_lib.ct.preprocess import FINE
from flare_lib.data.sources import Cache, sample_or_phantom
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.methods import FITTED
from flare_lib.inference.nnunet_stage import NnunetStage, segment_with_nnunet
from flare_lib.inference.stages import load_stages
from flare_lib.network.nnunet_export import save_nnunet_folder
from flare_lib.network.nnunet_folder import load_nnunet_folder
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet, load_trained, packaged_weights

PAPERS_PATCH = (96, 128, 160)
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "against_nnunet.json"
ANSWER = HERE.parent / "tests" / "inference" / "nnunet_answer.npz"
ARMS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32"},
    "auto": {},
    "auto, --fit-tiles": {"fit_tiles": FITTED},
    "auto, --roi": {"roi": True},
    "auto, --roi --fit-tiles": {"roi": True, "fit_tiles": FITTED},
    "openvino": {"engine": "openvino"},
    "openvino, --roi": {"engine": "openvino", "roi": True},
    "openvino, --roi --tile-step 1": {"engine": "openvino", "roi": True, "tile_step": 1.0},
    "openvino, --fit-tiles": {"engine": "openvino", "fit_tiles": FITTED},
    "openvino, --roi --fit-tiles": {"engine": "openvino", "roi": True, "fit_tiles": FITTED},
}


def run_nnunet(
    python: str, results: Path, ct: Path, labels: Path, folds: tuple[int, ...] = (0,), *, mirror: bool = False
) -> dict:
    """Run nnU-Net's predictor in its own environment; return what `nnunet_predict.py` measured."""
    command = [python, str(HERE / "nnunet_predict.py"), str(results), str(ct), str(labels), *map(str, folds)]
    command += ["--mirror"] * mirror
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def run_ours(results: str, ct_path: str, labels: str, settings: dict[str, Any]) -> dict:
    """Run flare-lib in this process; return the same measurements and the number format.

    Compiled code comes from numba's cache: run twice on a fresh installation.
    """
    numbers = {"precision": settings.get("precision", "auto"), "engine": settings.get("engine", "torch")}
    stage = NnunetStage(load_nnunet_folder(results, ["0"]), **numbers)
    coarse = load_stages(device="cpu", **numbers)[0] if settings.get("roi") else None
    began, cpu_began = time.perf_counter(), time.process_time()
    ct = load_ct(ct_path)
    tiles = {"tile_step": settings.get("tile_step", 0.5), "fit_tiles": settings.get("fit_tiles", 1.0)}
    result = segment_with_nnunet(ct, stage, coarse=coarse, **tiles)
    measured = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu_began}
    save_label_map(labels, result.label_map_zyx, ct)
    steps = {step: round(seconds, 2) for step, seconds in result.seconds.items()}
    return {**measured, "peak_mib": status_mib("VmHWM"), "precision": stage.precision.name, "steps": steps}


def agreement(labels: Path, reference: Path, n_classes: int) -> dict:
    """Return the mean Dice of the labels that either map holds, and how many voxels differ."""
    ours, theirs = (load_label_map(path).array_zyx for path in (labels, reference))
    dice = dice_scores(ours, theirs, n_classes)
    either = np.array([((ours == label) | (theirs == label)).any() for label in range(1, n_classes)])
    return {
        "mean_dice": float(dice[either].mean()),
        "lowest_dice": float(dice[either].min()),
        "differing_voxels": int((ours != theirs).sum()),
        "voxels": int(ours.size),
    }


def compare(python: str, results: Path, ct: Path, work: Path, *, mirror: bool, arms: Sequence[str]) -> dict:
    """Run nnU-Net and some of our arms on one CT."""
    n_classes = load_nnunet_folder(results, ["0"]).plans.n_classes
    theirs = work / "theirs.nii.gz"
    runs = {"nnU-Net": run_nnunet(python, results, ct, theirs)}
    print("nnU-Net", json.dumps(runs["nnU-Net"]), flush=True)
    if mirror:
        runs["nnU-Net, mirroring"] = run_nnunet(python, results, ct, work / "mirrored.nii.gz", mirror=True)
    for name in arms:
        ours, arm = work / "ours.nii.gz", f"flare-lib, {name}"
        runs[arm] = in_a_process(run_ours, str(results), str(ct), str(ours), ARMS[name])
        runs[arm] |= agreement(ours, theirs, n_classes)
        print(arm, json.dumps(runs[arm]), flush=True)
    return {"ct": ct.name, "shape_zyx": list(load_ct(ct).shape_zyx), "runs": runs}


def packaged_net() -> TrainedNet:
    """Return the packaged fine net."""
    return load_trained(packaged_weights("fine"))


def papers_net() -> TrainedNet:
    """Return the paper's net of 30.79 M parameters with random weights."""
    torch.manual_seed(0)
    return TrainedNet(UNet().eval(), FINE, PAPERS_PATCH, {})


def record(python: str, work: Path) -> None:
    """Store what nnU-Net makes of the miniature model and CTs: labels in the files' own axes."""
    results, labels = write_results(work / "small"), {}
    for kind in ("mild", "thick"):
        ct, answer = work / f"{kind}.nii.gz", work / f"{kind}_answer.nii.gz"
        nib.save(small_ct(kind), ct)
        run_nnunet(python, results, ct, answer, (0, 1))
        labels[kind] = np.asarray(nib.load(answer).dataobj, np.uint8)
    np.savez_compressed(ANSWER, **labels)


def table(cases: list[dict]) -> str:
    """Return the comparison as a Markdown table."""
    rows = ["| CT | | s | CPU s | peak MiB | mean Dice | voxels that differ |", "|---|---|---|---|---|---|---|"]
    for case in cases:
        for arm, run in case["runs"].items():
            same = f"{run['mean_dice']:.5f} | {run['differing_voxels']:,}" if "mean_dice" in run else "- | -"
            numbers = f"{run['seconds']:.1f} | {run['cpu_seconds']:.1f} | {run['peak_mib']:,.0f}"
            rows.append(f"| {case['ct']} | {arm} | {numbers} | {same} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nnunet-python", required=True, help="the Python of an environment with nnunetv2")
    parser.add_argument("--ct", nargs="+", type=Path, help="CTs to use instead of the sample")
    parser.add_argument("--results", type=Path, help="a results folder to use instead of the packaged fine net")
    parser.add_argument("--paper", action="store_true", help="the paper's net with random weights instead")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="which of flare-lib's ways")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to store the results instead")
    parser.add_argument("--mirror", action="store_true", help="run nnU-Net with its test-time mirroring, too")
    parser.add_argument("--record", action="store_true", help="only renew the answer that a test remembers")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if chosen.record:
            record(chosen.nnunet_python, work)
            return
        results = chosen.results or save_nnunet_folder(work, papers_net() if chosen.paper else packaged_net())
        cts = chosen.ct or [sample_or_phantom(Cache()).ct_path]
        settings = {"mirror": chosen.mirror, "arms": chosen.arms}
        cases = [compare(chosen.nnunet_python, results, ct, work, **settings) for ct in cts]
    own = "the paper's net, random weights" if chosen.paper else "packaged fine net"
    net = own if chosen.results is None else chosen.results.name
    store(chosen.output, {"machine": machine(), "nnunetv2": "2.8.1", "net": net, "cases": cases})
    print(table(cases))


if __name__ == "__main__":
    main()
