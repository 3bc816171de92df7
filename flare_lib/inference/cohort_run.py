"""The whole way for thousands of CTs: labels, and a manifest that records what became of every case.

    FOLDER/NAME.nii.gz            the labels
    FOLDER/manifest.jsonl         one line per case (machine.manifest), "done" or "failed":
        name, state, ct, input_sha256, input_stamp, weights_sha256, settings, rules, version, and
        done:   output, output_bytes, seconds {step: s}, total_s, peak_mib, volumes_ml {organ: mL}, cut_off, notes
        failed: error

A run may be stopped or killed at any moment; the same call continues it. A finished case is segmented again only if its
CT, the weights, the settings, the clean-up's rules or flare-lib's version have changed, or its labels are gone. A
failed case has been tried twice, the second time alone, and is left aside until one of these changes or the caller asks
for it; one that found no room on the disk is tried again by the next run.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from flare_lib import __version__
from flare_lib.ct.border import cut_labels
from flare_lib.ct.files import load_ct, save_label_map
from flare_lib.ct.labels import are_flares, label_counts, without_ignored
from flare_lib.ct.volume import Volume
from flare_lib.data.cohort import Case
from flare_lib.data.listing import check_case_name
from flare_lib.inference.expected_memory import expected_memory_mib
from flare_lib.inference.methods import Settings, clean_up_rules, open_method, weights_sha256, weights_stamp
from flare_lib.machine.failures import Failure
from flare_lib.machine.fingerprint import sha256_of, stamp_of
from flare_lib.machine.manifest import MANIFEST, Entry, Manifest, open_manifest, read_manifest
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import Progress
from flare_lib.machine.runner import run

Also = Callable[[Path, str, Volume, np.ndarray], None]  # (folder, name, CT, label map): a picture, for example


def segment_cohort(
    cases: Sequence[Case],
    folder: str | os.PathLike,
    settings: Settings = Settings(),  # noqa: B008 (it cannot be changed)
    *,
    pool: Pool | None = None,
    time_limit_s: float | None = None,
    retry_failed: bool = False,
    also: Also | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """Segment those of the cases (names all different) that `folder` does not hold yet; return the entries of all.

    `pool`, `time_limit_s`: see `machine.runner.run`; without a pool the work is done in this process. The paths must
    mean the same to all workers. `also`, a module-level function, is called in the worker for every case whose labels
    have been saved, if they are FLARE's organs. `progress(done, total)` also counts the cases that were there already.
    Raises ValueError if another run is writing into the folder, if labels would replace a CT or what no run has made,
    or if a name leads out of the folder, and OSError if a line of the manifest cannot be written; a case's own failure
    is in its entry.
    """
    folder = Path(folder)
    _check_places(cases, folder)
    key = _what_decides(settings)
    # these change no label, but what fails with one may work with another
    tried = {"engine": settings.engine, "precision": settings.precision, "device": settings.device}
    folder.mkdir(parents=True, exist_ok=True)
    with open_manifest(folder / MANIFEST, _is_whole) as manifest:
        todo = []
        for done, case in enumerate(cases):
            if not _is_settled(case, folder, manifest, key, None if retry_failed else tried):
                todo.append(case)
            if progress:
                progress(done + 1 - len(todo), len(cases))
        work = functools.partial(segment_case, folder=folder, settings=settings, also=also)
        n_there = len(cases) - len(todo)
        memory_mib = functools.partial(expected_memory_mib, settings=settings)
        outcomes = run(work, todo, pool, time_limit_s=time_limit_s, memory_mib=memory_mib)
        for n, (k, outcome) in enumerate(outcomes, start=1):
            manifest.add(_entry(todo[k], outcome, key, tried))
            if progress:
                progress(n_there + n, len(cases))
        return [manifest.entries[case.name] for case in cases]


def _what_decides(settings: Settings) -> Entry:
    """Return what decides a CT's labels beside the CT: it stands in every entry, and if it changes, they are outdated.

    Raises OSError for weights that are missing.
    """
    asked: dict[str, Any] = {"margin_mm": settings.margin_mm, "folds": list(settings.folds), "roi": settings.roi}
    if settings.ensemble is not None:
        asked |= {"scales": list(settings.ensemble.scales), "sure": settings.ensemble.sure}
    if settings.scale != 1:
        asked["scale"] = settings.scale
    if settings.fast:
        asked["fast"] = True
    return {
        "weights_sha256": weights_sha256(settings),
        "settings": asked | {"tile_step": settings.tile_step, "fit_tiles": settings.fit_tiles},
        "rules": clean_up_rules(settings),
        "version": __version__,  # another one may tile, resample or choose the region in another way
    }


def read_entries(folder: str | os.PathLike) -> dict[str, Entry]:
    """Return {name: entry} of a folder's manifest, those that are whole; empty if there is none."""
    return read_manifest(Path(folder) / MANIFEST, _is_whole)


def _is_whole(entry: Entry) -> bool:
    """Return whether an entry has what is read of it: someone may have edited the manifest, or it is none of ours."""
    match entry:
        case {"state": "failed", "ct": str(), "error": str(), "input_sha256": _, "input_stamp": _}:
            return True
        case {
            "state": "done",
            "ct": str(),
            "input_sha256": str(),
            "input_stamp": str(),
            "output_bytes": int(),
            "volumes_ml": {**volumes_ml},
            "cut_off": [*cut_off],
            "notes": [*notes],
            "total_s": seconds,
            "peak_mib": mib,
        }:
            numbers = (seconds, mib, *volumes_ml.values())
            return all(isinstance(n, float | int) for n in numbers) and all(
                isinstance(text, str) for text in (*cut_off, *notes)
            )
    return False


def _check_places(cases: Sequence[Case], folder: Path) -> None:
    """Raise an error for a case whose labels cannot go into the folder, which need not exist yet."""
    true, inputs = _real(folder), {_real(case.ct_path) for case in cases}
    there = next(path for path in (true, *true.parents) if path.exists())
    for case in cases:
        check_case_name(case)
        ct = _real(case.ct_path)
        if ct.parent == true or _real(label_path(true, case.name)) in inputs:
            raise ValueError(f"the output must be another folder than that of a CT, got {folder}")
        if ct == true or ct in true.parents:  # the labels would become files of the CT: a changed CT, every time
            raise ValueError(f"the output must lie outside of a CT's own folder, got {folder} in {case.ct_path}")
        with suppress(FileNotFoundError):
            os.lstat(target := label_path(there, case.name))  # a name that is too long raises OSError
            if there == true and not (folder / MANIFEST).exists():  # no run of ours has made it
                raise ValueError(
                    f"the output must be a new folder or that of an earlier run, with its {MANIFEST}, got {folder}, "
                    f"where {target.name} would be replaced"
                )


def segment_case(case: Case, *, folder: Path, settings: Settings, also: Also | None) -> dict[str, Any]:
    """Segment one case and save its labels; return its entry in the manifest, as far as the work decides it."""
    method = open_method(settings, weights_stamp(settings))  # weights trained on since the last run are loaded anew
    began = time.perf_counter()
    stamp, sha256 = stamp_of(case.ct_path), sha256_of(case.ct_path)
    ct = load_ct(case.ct_path)
    seconds = {"load": time.perf_counter() - began}
    result = method.segment(ct)
    seconds |= result.seconds
    began = time.perf_counter()
    target = label_path(folder, case.name)
    save_label_map(target, result.label_map_zyx, ct)
    organs = without_ignored(result.label_map_zyx)
    if also is not None and are_flares(method.names):
        also(folder, case.name, ct, organs)
    volumes_ml = label_counts(organs, max(method.names) + 1) * ct.voxel_ml
    cut = cut_labels(organs, ct.array_zyx)
    seconds["save"] = time.perf_counter() - began
    return {
        "input_sha256": sha256,
        "input_stamp": stamp,
        "output": target.name,
        "output_bytes": target.stat().st_size,
        "seconds": {step: round(s, 3) for step, s in seconds.items()},
        "volumes_ml": {name: round(float(volumes_ml[k]), 2) for k, name in method.names.items()},
        "cut_off": [name for k, name in method.names.items() if k in cut],
        "notes": [*method.notes, *result.notes],
    }


def label_path(folder: Path, name: str) -> Path:
    """Return where a case's labels are."""
    return folder / f"{name}.nii.gz"


def without_labels(cases: Sequence[Case], folder: Path, entries: Mapping[str, Entry]) -> list[Case]:
    """Return the cases that are not label maps of an earlier run into `folder`, which may lie within the CTs' folder.

    `entries`: the manifest's; a killed run may have left labels that are not in it.
    """
    folder = _real(folder)
    outside = [case.name for case in cases if _real(case.ct_path).parent != folder]
    own = {_real(label_path(folder, name)) for name in (*outside, *entries)}
    return [case for case in cases if _real(case.ct_path) not in own]


def _real(path: Path) -> Path:
    """Return where a path leads; `Path.resolve` raises for a link that leads to itself."""
    return Path(os.path.realpath(path))


def _is_settled(
    case: Case, folder: Path, manifest: Manifest, key: dict[str, Any], tried: dict[str, str] | None
) -> bool:
    """Return whether nothing is left to do for a case, reading its CT only if its size or time differ.

    `tried`: the engine, precision and device with which a failure would be final; None if none is.
    """
    entry = manifest.entries.get(case.name)
    if entry is None or any(entry.get(name) != value for name, value in key.items()):
        return False
    if entry["state"] == "failed" and (tried is None or entry.get("tried", tried) != tried):
        return False
    if entry["state"] == "done":
        try:
            if label_path(folder, case.name).stat().st_size != entry["output_bytes"]:
                return False
        except OSError:
            return False
    return _is_same_input(case.ct_path, entry)


def _is_same_input(path: Path, entry: Entry) -> bool:
    try:
        return stamp_of(path) == entry["input_stamp"] or sha256_of(path) == entry["input_sha256"]
    except OSError:
        return entry["input_stamp"] is None  # it was not there either


def _entry(case: Case, outcome: Any, key: dict[str, Any], tried: dict[str, str]) -> Entry:
    entry: Entry = {"name": case.name, "state": "done", "ct": str(case.ct_path), **key}
    if not isinstance(outcome, Failure):
        cost = {"total_s": round(outcome.seconds, 3), "peak_mib": round(outcome.peak_mib, 1)}
        return entry | outcome.result | cost
    final = None if outcome.passing else tried  # another run may find room on the disk
    entry |= {"state": "failed", "error": outcome.reason, "tried": final, "input_sha256": None, "input_stamp": None}
    with suppress(OSError):  # it is not there
        entry |= {"input_sha256": sha256_of(case.ct_path), "input_stamp": stamp_of(case.ct_path)}
    return entry
