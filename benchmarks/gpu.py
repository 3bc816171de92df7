"""What a GPU takes, and whether its answers are the CPU's: everything "not measured" for lack of a card, in one go.

    python benchmarks/gpu.py          # on one card, 8 minutes at most
    python benchmarks/gpu.py --dry    # tiny, with the CPU in the card's place: does every line run?

In this order, so that the most wanted comes first; what does not fit into the minutes is listed as left out:

* resize: resize + argmax by every method, with scores that are on the card and with scores that come from the CPU
* case: a phantom from CT to labels, by the packaged nets, and with the paper's net (random weights) as the fine one
* patch: one patch through the paper's net in float32, in the card's short format, channels last, compiled
* step: one training step of the paper's recipe, on noise
* transfer: an image to the card, as a whole and tile by tile, and labels from it, in ordinary and in page-locked memory
  (whose making is not counted): the most that page-locked transfers could save

Each but the last is followed by the same on the CPU of the same machine. Seconds are medians; on a card they include
waiting for it. Peak memory is what a run takes beside what was there before: on a card as torch counts it, on a CPU the
resident set. Equality: voxels that differ from the CPU's labels, and mean Dice with them. Everything goes into one
file, `benchmarks/results/gpu.json`, and, as a table, to the terminal.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import extra_mib_of, machine, store, timed
from scipy import ndimage
from slice_interpolation import ARMS, ON_GPU

from flare_lib.ct.labels import N_CLASSES
from flare_lib.ct.preprocess import FINE, Preprocessing
from flare_lib.ct.resample import resample_nearest
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.gpu_record import HEADER, gpu_row
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.slice_interpolation import DENSE_ABOVE, resize_argmax
from flare_lib.inference.sliding_window import tile_starts
from flare_lib.inference.stages import NetStage, load_stages
from flare_lib.machine.precision import FLOAT32, Precision, choose_precision
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet
from flare_lib.synthetic.phantom import phantom_case
from flare_lib.training.loop import make_optimizer, train_step
from flare_lib.training.recipes import preset

RESULTS = Path(__file__).parent / "results" / "gpu.json"
CPU = torch.device("cpu")
Shape = tuple[int, int, int]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    grid: Shape = (128, 160, 160)  # of the scores
    shapes: tuple[Shape, ...] = ((256, 320, 320), (400, 512, 512), (700, 512, 512))
    ct_slices: int = 400
    ct_side: int = 512
    fine: Preprocessing = FINE
    patch: Shape = (96, 128, 160)
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    repeats: int = 5
    compiler: str = "inductor"
    packaged: bool = True  # the packaged nets; or small ones with random weights in their place


DRY = Sizes(
    grid=(6, 9, 8),
    shapes=((11, 14, 13),),
    ct_slices=20,
    ct_side=32,
    fine=Preprocessing((18.0, 16.0, 14.0), mean_hu=FINE.mean_hu, sd_hu=FINE.sd_hu),
    patch=(16, 32, 64),
    features=(2, 3, 4, 5, 6, 6),
    repeats=1,
    compiler="eager",
    packaged=False,
)

# measuring ------------------------------------------------------------------------------------------------------------


def wait_for(device: torch.device) -> None:
    """Return once the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(run: Callable[[], object], device: torch.device) -> float:
    """Run something; return how far its memory rose."""
    if device.type != "cuda":
        return extra_mib_of(run)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    wait_for(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def measured(run: Callable[[], object], device: torch.device, repeats: int) -> Row:
    """Warm up, then return median seconds, their number, and peak memory; or that the device was full."""

    def whole() -> None:
        run()
        wait_for(device)

    try:
        whole()
        peak = peak_mib(whole, device)
        _, seconds = timed(whole, repeats)
    except (torch.OutOfMemoryError, MemoryError):
        return {"seconds": None, "n": 0, "peak_mib": None, "said": "out of memory"}
    return {"seconds": median(seconds), "n": repeats, "peak_mib": round(peak)}


def equality(labels: np.ndarray, reference: np.ndarray) -> Row:
    """Return how far labels are from the CPU's: voxels, and mean Dice of the organs in either."""
    either = [organ for organ in range(1, N_CLASSES) if (labels == organ).any() or (reference == organ).any()]
    dice = dice_scores(labels, reference)[[organ - 1 for organ in either]]
    return {
        "voxels_that_differ": int((labels != reference).sum()),
        "mean_dice": float(dice.mean()) if either else None,
    }


# the sections: each yields rows, the card's first ---------------------------------------------------------------------


def anatomy(grid: Shape) -> torch.Tensor:
    """Scores of a phantom's organs, float32 (14, z, y, x): one-hot, with soft borders."""
    _, labels = phantom_case(0, spacing_zyx_mm=(8.0, 8.0, 8.0) if min(grid) > 50 else (16.0, 16.0, 16.0))
    small = resample_nearest(labels.array_zyx, grid)
    sd = 1.0 if min(grid) > 50 else 0.3
    soft = np.stack([ndimage.gaussian_filter((small == c).astype(np.float32), sd) for c in range(N_CLASSES)])
    return torch.from_numpy(soft / soft.sum(axis=0, keepdims=True))


def resize(card: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Resize + argmax, every method that runs on a card and all of ours that the CPU has."""
    scores = anatomy(sizes.grid)
    waiting = scores.pin_memory() if card.type == "cuda" else scores  # page-locked, as a fast transfer needs it
    ours = {f"ours, {m}": lambda s, n, m=m: resize_argmax(s, n, method=m) for m in DENSE_ABOVE if m == "triton"}
    arms = {**{arm: ARMS[arm] for arm in (*ON_GPU, "ours, auto")}, **(ours if card.type == "cuda" else {})}
    for shape in sizes.shapes:
        reference = resize_argmax(scores, shape)
        there = scores.to(card)
        for arm, run in arms.items():
            row = {"section": "resize", "what": arm, "shape": list(shape), "device": str(card)}
            row |= measured(lambda run=run, there=there, shape=shape: run(there, shape), card, sizes.repeats)
            if row["seconds"] is not None:
                moved = measured(
                    lambda run=run, shape=shape: run(waiting.to(card, non_blocking=True), shape), card, sizes.repeats
                )
                yield {**row, "seconds_with_transfer": moved["seconds"], **equality(run(there, shape), reference)}
            else:
                yield row
        run = ARMS["ours, auto"]
        on_cpu = measured(lambda run=run, shape=shape: run(scores, shape), CPU, sizes.repeats)
        yield {"section": "resize", "what": "ours, auto", "shape": list(shape), "device": "cpu", **on_cpu}


def big_phantom(sizes: Sizes) -> Volume:
    """A whole body, enlarged from a coarse phantom to save time."""
    ct, _ = phantom_case(0, spacing_zyx_mm=(4.0, 3.0, 3.0) if sizes.packaged else (16.0, 16.0, 16.0))
    shape = (sizes.ct_slices, sizes.ct_side, sizes.ct_side)
    spacing = tuple(mm / n for mm, n in zip(ct.size_mm_zyx, shape, strict=True))
    return Volume.from_array(resample_nearest(ct.array_zyx, shape), spacing)


def papers_net(sizes: Sizes) -> UNet:
    """The paper's net with random weights."""
    torch.manual_seed(0)
    return UNet(features_per_stage=sizes.features).eval()


def case(card: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The whole way, from a CT in memory to its labels, in float32 for equality and as users have it."""
    ct, paper = big_phantom(sizes), TrainedNet(papers_net(sizes), sizes.fine, sizes.patch, {})
    reference: dict[str, np.ndarray] = {}
    for device in dict.fromkeys((CPU, card)):
        for precision in ("float32", "auto"):
            settings = {"device": device, "precision": precision}
            with_paper = NetStage(paper, **settings)
            coarse, fine = load_stages(**settings) if sizes.packaged else (with_paper, with_paper)
            nets = {"packaged nets": fine, "the paper's fine net": with_paper}
            for name, stage in nets.items():
                found = []

                def run(coarse: NetStage = coarse, stage: NetStage = stage, found: list = found) -> None:
                    found[:] = [segment(ct, coarse, stage)]

                row = {"section": "case", "what": f"{name}, {precision}", "shape": list(ct.shape_zyx)}
                row |= {"device": str(device), "format": stage.precision.name, **measured(run, device, 1)}
                if found:
                    labels = reference.setdefault(name, found[0].label_map_zyx)
                    row |= {"steps": {step: round(s, 3) for step, s in found[0].seconds.items()}}
                    row |= equality(found[0].label_map_zyx, labels)
                yield row


def patch(card: torch.device, sizes: Sizes) -> Iterator[Row]:
    """One patch through the paper's net, in every form."""
    image = torch.randn((1, 1, *sizes.patch), generator=torch.Generator().manual_seed(0))
    for device in dict.fromkeys((card, CPU)):
        native = choose_precision(device=device)
        forms = [("float32", FLOAT32, False, False), (native.name, native, False, False)]
        if device is card:
            forms += [(f"{native.name}, channels last", native, True, False)]
            forms += [(f"{native.name}, compiled", native, False, True)]
        exact = None
        for name, precision, last, compiled in forms:
            net, there = papers_net(sizes).to(device), image.to(device)
            if last:
                net, there = (thing.to(memory_format=torch.channels_last_3d) for thing in (net, there))
            finest = torch.compile(net.finest, backend=sizes.compiler) if compiled else net.finest
            winners: list[torch.Tensor] = []

            def run(
                finest: Callable = finest,
                there: torch.Tensor = there,
                precision: Precision = precision,
                winners: list = winners,
            ) -> None:
                with torch.inference_mode(), precision.autocast(there.device):
                    winners[:] = [finest(there).argmax(dim=1)]

            row = {"section": "patch", "what": name, "shape": list(sizes.patch), "device": str(device)}
            row |= measured(run, device, sizes.repeats)
            if winners:
                exact = winners[0] if exact is None else exact
                row["share_that_differs"] = float((winners[0] != exact).float().mean())
            yield row


def step(card: torch.device, sizes: Sizes) -> Iterator[Row]:
    """One training step of the paper's coarse recipe, labelled and unlabelled patches together."""
    recipe = preset("paper", "coarse", features_per_stage=sizes.features, patch_size=sizes.patch)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn((recipe.batch_size, 1, *sizes.patch), generator=generator),
        "target": torch.randint(N_CLASSES, (recipe.batch_size, *sizes.patch), generator=generator),
        "unlabelled": torch.randn((recipe.n_unlabelled, 1, *sizes.patch), generator=generator),
    }
    for device in dict.fromkeys((card, CPU)):
        precision = choose_precision(device=device)
        net = recipe.new_net().to(device).train()
        optimizer, scaler = make_optimizer(net, recipe), precision.grad_scaler(device)

        def run(net: UNet = net, optimizer: Any = optimizer, precision: Any = precision, scaler: Any = scaler) -> None:
            train_step(net, optimizer, batch, consistency_weight=0.1, precision=precision, scaler=scaler)

        row = {"section": "step", "what": f"paper, {precision.name}", "shape": list(sizes.patch), "device": str(device)}
        yield row | measured(run, device, sizes.repeats if device is card else 1)


def transfer(card: torch.device, sizes: Sizes) -> Iterator[Row]:
    """An image to the card, and labels back, with and without page-locked memory."""
    image = torch.randn((1, *(2 * n for n in sizes.patch)), generator=torch.Generator().manual_seed(0))
    starts = [*product(*(tile_starts(2 * n, n, 0.5) for n in sizes.patch))]
    labels = torch.zeros(sizes.shapes[-1], dtype=torch.uint8, device=card)
    for memory in ("ordinary", "page-locked"):
        locked = memory == "page-locked" and card.type == "cuda"
        whole, tile, back = image, image.new_empty(1, *sizes.patch), torch.empty(labels.shape, dtype=torch.uint8)
        if locked:
            whole, tile, back = (tensor.pin_memory() for tensor in (whole, tile, back))

        def at_once(whole: torch.Tensor = whole, locked: bool = locked) -> None:
            whole.to(card, non_blocking=locked)

        def by_tiles(tile: torch.Tensor = tile, locked: bool = locked) -> None:
            for start in starts:
                box = (slice(first, first + n) for first, n in zip(start, sizes.patch, strict=True))
                tile.copy_(image[(slice(None), *box)])
                tile.to(card, non_blocking=locked)
                wait_for(card)  # the same page-locked memory is written again

        def home(back: torch.Tensor = back, locked: bool = locked) -> None:
            back.copy_(labels, non_blocking=locked)

        for what, run in {"image": at_once, "image, tile by tile": by_tiles, "labels back": home}.items():
            shape = labels.shape if run is home else image.shape[1:]
            row = {"section": "transfer", "what": f"{what}, {memory}", "shape": list(shape), "device": str(card)}
            yield row | measured(run, card, sizes.repeats)


SECTIONS: tuple[Callable[[torch.device, Sizes], Iterator[Row]], ...] = (resize, case, patch, step, transfer)

# results --------------------------------------------------------------------------------------------------------------


def run_all(card: torch.device, sizes: Sizes, minutes: float) -> dict:
    """Run the sections until the time is up; return all rows, and the sections that were not finished."""
    until, rows, left_out = time.monotonic() + 60 * minutes, [], []
    for section in SECTIONS:
        for row in section(card, sizes):
            rows.append(row)
            print(gpu_row(row), flush=True)
            if time.monotonic() > until:
                break
        if time.monotonic() > until:
            left_out = [s.__name__ for s in SECTIONS[SECTIONS.index(section) :]]
            break
    name = torch.cuda.get_device_name(card) if card.type == "cuda" else "none: a dry run"
    return {"machine": machine(), "card": name, "rows": rows, "left_out_or_unfinished": left_out}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop")
    parser.add_argument("--output", type=Path, help="where to store the results instead")
    chosen = parser.parse_args(arguments)
    if chosen.dry and chosen.output is None:
        parser.error("--dry needs --output: its numbers are not results")
    if not chosen.dry and not torch.cuda.is_available():
        parser.error("a CUDA card must be there, got none; --dry runs on the CPU")
    print(HEADER)
    card = CPU if chosen.dry else torch.device("cuda", 0)
    store(chosen.output or RESULTS, run_all(card, DRY if chosen.dry else Sizes(), chosen.minutes))


if __name__ == "__main__":
    main()
