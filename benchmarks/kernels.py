"""What the choice of torch's kernels and huge pages save: one patch of each net, with and without them.

    python benchmarks/kernels.py             # the packaged nets
    python benchmarks/kernels.py --paper     # and the paper's net, with random weights

Each patch is computed with the kernels that torch chooses, with ours (`network.kernels`), and with ours in place
(`network.in_place`), as `flare segment` does, in float32 and in the processor's fastest format. They take turns in one
process, so that their ratio holds on a machine that is not quiet; pages (`machine.huge_pages`) are chosen when a
process starts. A patch is noise: the time does not depend on what is in it.
Results go to `benchmarks/results/kernels.json`.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measure import in_a_process, machine, store

from flare_lib.machine.huge_pages import REQUEST
from flare_lib.machine.precision import FLOAT32, Precision, choose_precision
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.kernels import inferring, plain_float32
from flare_lib.network.unet import UNet
from flare_lib.network.weights import load_trained, packaged_weights
from flare_lib.training.recipes import preset

CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results" / "kernels.json"


def nets(paper: bool) -> Iterator[tuple[str, UNet, tuple[int, ...]]]:
    """Yield the name, net and patch size of each net."""
    for name in ("coarse", "fine"):
        trained = load_trained(packaged_weights(name))
        yield f"packaged, {name}", trained.net, trained.patch_size
    if paper:
        recipe = preset("paper", "fine")
        yield "paper, fine", recipe.new_net().eval(), recipe.patch_size


def measure(net: UNet, patch_size: tuple[int, ...], precision: Precision, rounds: int) -> dict:
    """Return the medians of CPU and wall seconds a patch of each way, and how far the outer two's logits are apart.

    In a short format also the RMS of their distance from float32's logits.
    """
    patch = torch.randn(1, 1, *patch_size, generator=torch.Generator().manual_seed(0))

    def plain() -> torch.Tensor:
        with torch.inference_mode(), precision.autocast(CPU):
            return net.finest(patch).float()

    def chosen() -> torch.Tensor:
        with inferring(CPU, precision):
            return plain_float32(net.finest(patch))

    def in_place() -> torch.Tensor:
        with inferring(CPU, precision):
            return plain_float32(finest_in_place(net, patch))

    ways: dict[str, Callable[[], torch.Tensor]] = {"torch_chooses": plain, "chosen": chosen, "in_place": in_place}
    cpu, wall, logits = ({way: [] for way in ways} for _ in range(3))
    for _ in range(rounds + 1):  # the first is a warm-up
        for way, run in ways.items():
            began = time.process_time(), time.perf_counter()
            logits[way] = run()
            cpu[way].append(time.process_time() - began[0])
            wall[way].append(time.perf_counter() - began[1])
    medians = {
        f"{kind}_s_{way}": round(statistics.median(seconds[way][1:]), 3)
        for kind, seconds in (("cpu", cpu), ("wall", wall))
        for way in ways
    }
    apart = float((logits["in_place"] - logits["torch_chooses"]).abs().max())
    ratio = statistics.median(cpu["torch_chooses"][1:]) / statistics.median(cpu["in_place"][1:])
    measured = medians | {"cpu_ratio": round(ratio, 2), "logits_apart": float(f"{apart:.1e}"), "rounds": rounds}
    if precision.name == FLOAT32.name:
        return measured
    with inferring(CPU, FLOAT32):
        exact = finest_in_place(net, patch)
    from_float32 = {way: float((logits[way] - exact).square().mean().sqrt()) for way in ("torch_chooses", "in_place")}
    return measured | {f"rms_from_float32_{way}": float(f"{rms:.1e}") for way, rms in from_float32.items()}


def measure_all(threads: int, rounds: int, paper: bool) -> list[dict]:
    """Measure every net in this process; return one row a net, which says whether the pages were huge."""
    torch.set_num_threads(threads)
    rows = []
    formats = {precision.name: precision for precision in (FLOAT32, choose_precision(device=CPU))}
    for name, net, patch_size in nets(paper):
        for precision in formats.values():
            row = {"net": name, "patch": list(patch_size), "precision": precision.name}
            row["huge_pages"] = os.environ[REQUEST] == "1"
            rows.append(row | measure(net, patch_size, precision, rounds))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--paper", action="store_true", help="also the paper's net: some minutes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to store the results instead")
    arguments = parser.parse_args()
    rows = []
    for huge in ("0", "1"):
        os.environ[REQUEST] = huge
        rows += in_a_process(measure_all, arguments.threads, arguments.rounds, arguments.paper)
    store(arguments.output, {"machine": machine(), "threads": arguments.threads, "rows": rows})


if __name__ == "__main__":
    main()
