"""Thousands of randomly damaged files: refused in one line or read correctly, and nothing else.

    python benchmarks/fuzz.py nifti1            # 20,000 damaged headers, about 4 minutes on 2 cores
    python benchmarks/fuzz.py gz --n 500 --seed 7

* `nifti1`, `nifti2`: bits, bytes and fields of a header overwritten, files cut; what is still read must be what nibabel
  reads of the same file.
* `gz`: one flipped bit in a stream; what `gzip` refuses must be refused.
* `dicom`: a series whose last slice is damaged, in eight transfer syntaxes; what is still read must be whole and what
  pydicom reads.

Mutation i of a seed is the same whatever n is. Nothing may raise an undocumented error, take more than 2 s of CPU time,
or allocate more than 256 MiB beyond what was loaded. Results go to `benchmarks/results/fuzz.json`; the exit status is 1
if something was found.
"""

import argparse
import gzip
import io
import json
import logging
import tempfile
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from damaged_dicom import as_pydicom_reads, damage_slice, put_series, sound_slices
from measure import machine

from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import Volume, to_file_axes
from flare_lib.synthetic.phantom import phantom_case

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
DOCUMENTED = (ValueError, TypeError, FileNotFoundError)
MOST_SECONDS = 2.0
MOST_EXTRA_MIB = 256.0

Wrong = str | None


@dataclass(frozen=True)
class Mode:
    """What is damaged and how it is judged.

    `sound()` files as bytes; `damage(rng, data)` one of them, changed; `put(folder, data)` it on disk, returning what
    `load_ct` takes; `judge(data, volume)` what is wrong with having read it (or with having refused it: None), None
    when nothing is. `n` mutations make a full run.
    """

    n: int
    sound: Callable[[], Sequence[bytes]]
    damage: Callable[[np.random.Generator, bytes], bytes]
    put: Callable[[Path, bytes], Path]
    judge: Callable[[bytes, Volume | None], Wrong]


@dataclass
class Found:
    """What a run found: counts, the worst figures, and the number of every mutation where something went wrong."""

    n: int
    seed: int
    refused: int = 0
    read: int = 0
    slowest_s: float = 0.0
    most_extra_mib: float = 0.0
    undocumented: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)
    too_slow: dict[int, float] = field(default_factory=dict)
    too_large: dict[int, float] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.undocumented or self.wrong or self.too_slow or self.too_large)


def fuzz(mode: Mode, n: int, seed: int) -> Found:
    """Load n damaged files, one after another, in this process."""
    found = Found(n, seed)
    sound = mode.sound()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            rng = np.random.default_rng([seed, i])
            data = mode.damage(rng, sound[rng.integers(len(sound))])
            _load_one(mode, i, data, mode.put(Path(folder), data), found)
    return found


def _load_one(mode: Mode, i: int, data: bytes, path: Path, found: Found) -> None:
    """Load one damaged file and note what happens."""
    loaded: list[Volume] = []

    def load() -> None:
        try:
            with warnings.catch_warnings(action="error"):
                loaded.append(load_ct(path))
        except DOCUMENTED as error:
            if "\n" in str(error):
                found.undocumented[i] = f"several lines: {error}"
        except Exception as error:
            found.undocumented[i] = f"{type(error).__name__}: {error}"

    tracemalloc.start()  # for the loading alone: it makes everything several times as slow
    began = time.process_time()
    try:
        load()
        seconds = time.process_time() - began
        extra_mib = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    volume = loaded[0] if loaded else None
    if volume is None:
        found.refused += 1
    else:
        found.read += 1
        extra_mib -= volume.array_zyx.nbytes / 2**20
    found.slowest_s = max(found.slowest_s, round(seconds, 3))
    found.most_extra_mib = max(found.most_extra_mib, round(extra_mib, 1))
    if seconds > MOST_SECONDS:
        found.too_slow[i] = seconds
    if extra_mib > MOST_EXTRA_MIB:
        found.too_large[i] = extra_mib
    if wrong := mode.judge(data, volume):
        found.wrong[i] = wrong


# NIfTI headers

_FORMS = [(1, 1), (0, 1), (1, 0), (2, 1)]  # qform_code, sform_code
_FLIPS = [(1, 1, 1), (-1, -1, 1), (-1, 1, 1), (1, -1, -1)]
_DTYPES = ["<i2", "<i4", "<f4", ">i2", ">f8"]
_NUMBERS = (0, 1, -1, 2, 3, 4, 8, 16, 255, 348, 352, 540, 32767, -32768, 1e-30, 1e6, 1e30, np.inf, -np.inf, np.nan, 0.5)


@cache
def sound_niftis(header_class: type[nib.Nifti1Header]) -> tuple[bytes, ...]:
    """Return sound files of all kinds: types, byte orders, sform and qform, directions, units."""
    ct, _ = phantom_case(0, shape_zyx=(14, 18, 22), spacing_zyx_mm=(24.0, 17.0, 18.0))
    files = []
    for k, dtype in enumerate(_DTYPES * 4):
        qform_code, sform_code = _FORMS[k % 4]
        flips = np.array(_FLIPS[k % 3])
        affine = ct.affine.copy()
        affine[:3, :3] *= flips
        header = header_class(endianness=dtype[0])
        header.set_data_dtype(dtype)
        header.set_data_shape((*ct.shape_zyx[::-1], *[1] * (k % 2)))
        header.set_qform(affine, qform_code)
        header.set_sform(affine, sform_code)
        header.set_xyzt_units(("mm", "unknown")[k % 2])
        header.set_slope_inter(1, 0)
        header["vox_offset"] = header.single_vox_offset
        files.append(header.binaryblock + bytes(4) + ct.array_zyx.T.astype(dtype).tobytes(order="F"))
    return tuple(files)


def damage_header(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a file with bits, bytes or fields of its header overwritten, or cut; some of them compressed."""
    header_class = nib.Nifti2Header if 540 in (data[0], data[1], *_sizes(data)) else nib.Nifti1Header
    damaged = bytearray(data)
    end = header_class.sizeof_hdr + 4
    for _ in range(rng.integers(1, 4)):
        match rng.integers(5):
            case 0:
                damaged[rng.integers(end)] ^= 1 << rng.integers(8)
            case 1:
                damaged[rng.integers(end)] = rng.integers(256)
            case 2:
                at = rng.integers(end - 8)
                damaged[at : at + 8] = rng.bytes(8)
            case 3:
                _overwrite_a_field(rng, damaged, header_class)
            case 4 if rng.random() < 0.2:
                del damaged[rng.integers(len(damaged)) :]
                damaged.extend(bytes(max(0, end - len(damaged))))
            case _:
                _overwrite_a_field(rng, damaged, header_class)
    return gzip.compress(bytes(damaged), 1, mtime=0) if rng.random() < 0.3 else bytes(damaged)


def _sizes(data: bytes) -> tuple[int, int]:
    """Return what a header says about its own size, in either byte order."""
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")


def _overwrite_a_field(rng: np.random.Generator, damaged: bytearray, header_class: type[nib.Nifti1Header]) -> None:
    """Write a number that has a meaning somewhere into a random element of a random field."""
    dtype = header_class.template_dtype.newbyteorder("<" if damaged[0] else ">")
    name = rng.choice(list(dtype.names))
    element, at = dtype.fields[name][:2]
    base = element.base
    if base.kind == "S":
        damaged[at : at + 4] = rng.bytes(4)
        return
    number = _NUMBERS[rng.integers(len(_NUMBERS))]
    if base.kind in "iu":
        lowest, highest = np.iinfo(base).min, np.iinfo(base).max
        number = 0 if np.isnan(number) else highest if number > highest else lowest if number < lowest else int(number)
    at += int(rng.integers(max(1, int(np.prod(element.shape, dtype=int))))) * base.itemsize
    with np.errstate(over="ignore"):
        damaged[at : at + base.itemsize] = np.array(number, base).tobytes()


def put_nifti(folder: Path, data: bytes) -> Path:
    """Write a file under the name that says whether it is compressed."""
    path = folder / ("case.nii.gz" if data[:2] == b"\x1f\x8b" else "case.nii")
    path.write_bytes(data)
    return path


def as_nibabel_reads(data: bytes, volume: Volume | None) -> Wrong:
    """Compare what was read with what nibabel reads: values, and the affine in mm."""
    if volume is None:
        return None
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    image_class = nib.Nifti2Image if 540 in _sizes(data) else nib.Nifti1Image
    image = image_class.from_stream(io.BytesIO(data))
    values = np.asanyarray(image.dataobj).reshape(image.shape[:3])
    if not np.array_equal(to_file_axes(volume.array_zyx, volume.file_grid), values.astype(volume.array_zyx.dtype)):
        return "values are not nibabel's"
    mm = {1: 1000.0, 3: 0.001}.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affine = image.affine
    if not np.isfinite(affine).all() or not affine[:3, :3].any(axis=0).all():  # an sform that says nothing
        affine = image.header.get_qform()
    if not np.allclose(np.diag([mm, mm, mm, 1.0]) @ affine, volume.file_grid.affine, rtol=1e-6, atol=1e-9):
        return "the affine is not nibabel's"
    return None


# gzip streams


@cache
def sound_streams() -> tuple[bytes, ...]:
    """Return one CT as different compressors write it: levels, a name, one member and several."""
    files = sound_niftis(nib.Nifti1Header)
    named = io.BytesIO()
    with gzip.GzipFile("ct.nii", "wb", 9, named, mtime=1e9) as file:
        file.write(files[1])
    flushed = zlib.compressobj(6, zlib.DEFLATED, 31)
    parts = [flushed.compress(files[2][k : k + 997]) + flushed.flush(zlib.Z_SYNC_FLUSH) for k in range(0, 30000, 997)]
    members = [gzip.compress(files[3][k : k + 4096], 6, mtime=0) for k in range(0, len(files[3]), 4096)]
    levels = [gzip.compress(files[0], level, mtime=0) for level in (0, 1, 6, 9)]
    rest = flushed.compress(files[2][997 * len(parts) :]) + flushed.flush()
    return (*levels, named.getvalue(), b"".join(parts) + rest, b"".join(members))


def flip_a_bit(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a stream with one bit flipped."""
    damaged = bytearray(data)
    damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def as_gzip_reads(data: bytes, volume: Volume | None) -> Wrong:
    """Compare with Python's `gzip`: what it refuses must not have been read."""
    if volume is None:
        return None
    try:
        return as_nibabel_reads(gzip.decompress(data), volume)
    except (OSError, EOFError, zlib.error) as error:
        return f"a damaged stream was read: {error}"


MODES = {
    "nifti1": Mode(20_000, lambda: sound_niftis(nib.Nifti1Header), damage_header, put_nifti, as_nibabel_reads),
    "nifti2": Mode(20_000, lambda: sound_niftis(nib.Nifti2Header), damage_header, put_nifti, as_nibabel_reads),
    "gz": Mode(5_000, sound_streams, flip_a_bit, put_nifti, as_gzip_reads),
    "dicom": Mode(5_000, sound_slices, damage_slice, put_series, as_pydicom_reads),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--n", type=int, help="how many mutations; default: a full run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mode = MODES[arguments.mode]
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # what it says of the headers that it mends
    began = time.perf_counter()
    found = fuzz(mode, arguments.n or mode.n, arguments.seed)
    seconds = round(time.perf_counter() - began, 1)
    result = {**asdict(found), "seconds": seconds, "machine": machine(), "date": date.today().isoformat()}
    print(json.dumps(result, indent=1))
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[arguments.mode] = result
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if found.nothing else 1


if __name__ == "__main__":
    raise SystemExit(main())
