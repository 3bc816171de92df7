"""What number formats cost on processors of several kinds: the packaged nets, patch by patch, and their labels.

    python benchmarks/precision.py               # every kind that this processor has, each in a process of its own
    python benchmarks/precision.py --rounds 1    # a quick look

Processors are imitated by forbidding oneDNN the later instructions (ONEDNN_MAX_CPU_ISA): AVX2 is most laptops,
AVX512_CORE a server without bfloat16. A kind that this processor lacks is left out. The formats of one kind take turns
in one process, so that their ratio holds on a machine that is not quiet; times are medians. The Dice score compares the
labels of a phantom's patch with those of float32. Results go to `benchmarks/results/precision.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import machine

from flare_lib.ct.volume import Volume
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.sliding_window import sliding_window
from flare_lib.inference.stages import NetStage
from flare_lib.machine.precision import Precision, choose_precision
from flare_lib.network.weights import load_trained, packaged_weights
from flare_lib.synthetic.phantom import phantom_case

RESULTS = Path(__file__).parent / "results" / "precision.json"
KINDS = {
    "AVX2": "avx2",
    "AVX512_CORE": "avx512f",
    "ALL": "avx512_bf16",
}  # ONEDNN_MAX_CPU_ISA: what the processor must have
TOO_SLOW_S = 20.0  # a format that takes longer for one patch takes part in one round only


def a_patch(stage: NetStage, ct: Volume) -> torch.Tensor:
    """The middle of a CT as one patch (1, 1, Z, Y, X) of the stage's net."""
    seen = []
    image = stage.prepare(ct)
    middle = image
    for axis, size in enumerate(stage.patch_size, start=1):
        start = max(0, (middle.shape[axis] - size) // 2)
        middle = middle.narrow(axis, start, min(size, middle.shape[axis]))
    next(
        sliding_window(middle, lambda patch: (seen.append(patch), patch)[1], patch_size=stage.patch_size, tile_step=1.0)
    )
    return seen[0]


def measure(kind: str, formats: list[str], rounds: int) -> list[dict]:
    """Time both packaged nets in every format, in turns, in this process; return one row a net and format."""
    ct, _ = phantom_case(0, spacing_zyx_mm=(3.0, 3.0, 3.0))
    chosen = choose_precision(device=torch.device("cpu")).name
    rows = []
    for name in ("coarse", "fine"):
        trained = load_trained(packaged_weights(name))
        stages = {fmt: NetStage(trained, precision=Precision(fmt, "measured")) for fmt in formats}
        patch = a_patch(stages["float32"], ct)
        seconds, labels = {fmt: [] for fmt in formats}, {}
        for _ in range(rounds + 1):  # the first is a warm-up
            for fmt, stage in stages.items():
                if seconds[fmt] and seconds[fmt][0] > TOO_SLOW_S:
                    continue
                began = time.perf_counter()
                labels[fmt] = stage.predict_patch(patch)[0].argmax(dim=0).to(torch.uint8).numpy()
                seconds[fmt].append(time.perf_counter() - began)
        for fmt, times in seconds.items():
            median = statistics.median(times[1:] or times)
            base = statistics.median(seconds["float32"][1:])
            dice = dice_scores(labels[fmt], labels["float32"])
            dice = dice[[organ + 1 in labels["float32"] for organ in range(len(dice))]]
            rows.append(
                {"kind": kind, "net": name, "patch": list(trained.patch_size), "format": fmt, "chosen": fmt == chosen}
                | {"seconds": round(median, 3), "times_float32": round(median / base, 2), "n": len(times[1:] or times)}
                | {"mean_dice_with_float32": round(float(dice.mean()), 4)}
            )
    return rows


def table(rows: list[dict]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| kind | net | format | s a patch (n) | times float32 | Dice with float32 | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row["kind"], row["net"], row["format"], f"{row['seconds']} ({row['n']})", row["times_float32"])
        chosen = "chosen" if row["chosen"] else ""
        lines.append("| " + " | ".join(map(str, (*cells, row["mean_dice_with_float32"], chosen))) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--formats", nargs="+", default=["float32", "bfloat16", "float16"], help="float32 among them")
    parser.add_argument("--kind", choices=KINDS, help="measure in this process, as main does in others")
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(arguments.kind, arguments.formats, arguments.rounds)))
        return
    flags = Path("/proc/cpuinfo").read_text()
    rows = []
    for kind, needed in KINDS.items():
        if needed not in flags:
            print(f"{kind}: not on this processor")
            continue
        command = [
            sys.executable,
            __file__,
            "--kind",
            kind,
            "--rounds",
            str(arguments.rounds),
            "--formats",
            *arguments.formats,
        ]
        limited = os.environ | {"ONEDNN_MAX_CPU_ISA": kind}
        done = subprocess.run(command, env=limited, stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout)
    print(table(rows))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
