"""Streams of gzip: whatever compressor wrote them, read whole; damaged in whatever way, refused."""

import gzip
import re
import tracemalloc
import zlib

import fuzz  # of benchmarks/
import numpy as np
import pytest
from niftis import AFFINE, body_hu, gzipped, inflates_too_far, nifti, put, refusal

from flare_lib.ct.files import load_ct

pytestmark = pytest.mark.usefixtures("quick_phantoms")  # what is damaged is made of one


def read(tmp_path, data):
    return load_ct(put(tmp_path / "case.nii.gz", data)).array_zyx.T


def refused(tmp_path, data):
    return refusal(put(tmp_path / "case.nii.gz", data))


def members(data, n):
    return [gzipped(data[at : at + n]) for at in range(0, len(data), n)]


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_every_level_is_read(tmp_path, level):
    np.testing.assert_array_equal(read(tmp_path, gzipped(nifti(), level)), body_hu())


@pytest.mark.parametrize("n", [100, 348, 4096])
def test_several_members_are_one_stream(tmp_path, n):
    np.testing.assert_array_equal(read(tmp_path, b"".join(members(nifti(), n))), body_hu())


def test_empty_members_and_zeros_between_members_are_passed_over(tmp_path):
    empty = gzipped(b"")
    data = empty + (bytes(300) + empty).join(members(nifti(), 1000)) + empty + bytes(70000)
    np.testing.assert_array_equal(read(tmp_path, data), body_hu())


def test_a_members_optional_fields_are_passed_over(tmp_path):
    flags, extra, name = b"\x1c", b"\x06\x00BC\x02\x00ab", b"ct.nii\0a comment\0"
    plain = gzipped(nifti())
    np.testing.assert_array_equal(
        read(tmp_path, plain[:3] + flags + plain[4:10] + extra + name + plain[10:]), body_hu()
    )


def test_a_stream_of_many_flushes_is_read(tmp_path):
    deflate, data = zlib.compressobj(6, zlib.DEFLATED, 31), nifti()
    parts = [deflate.compress(data[k : k + 50]) + deflate.flush(zlib.Z_FULL_FLUSH) for k in range(0, len(data), 50)]
    np.testing.assert_array_equal(read(tmp_path, b"".join(parts) + deflate.flush()), body_hu())


def test_a_flipped_bit_after_which_a_stream_inflates_to_more_is_refused(tmp_path):
    damaged = inflates_too_far(nifti())
    with pytest.raises(OSError, match="CRC check failed"):
        gzip.decompress(damaged)
    assert refused(tmp_path, damaged).startswith("FILE must ")


@pytest.mark.parametrize("level", [0, 6])
def test_a_stream_cut_anywhere_is_refused(tmp_path, level):
    sound = gzipped(nifti(), level)
    for kept in (*range(1, 30), *range(30, len(sound), 499), *range(len(sound) - 12, len(sound))):
        assert "must be a" in refused(tmp_path, sound[:kept]), kept


def test_a_stream_cut_between_two_members_is_refused(tmp_path):
    assert "bytes of voxels instead of 8,640" in refused(tmp_path, b"".join(members(nifti(), 1000)[:-1]))


SAID = re.compile(r"got: Error -\d.*(incorrect (data|length) check|Incorrect checksum)")  # zlib, ISA-L


@pytest.mark.parametrize("at", [-8, -4])
def test_a_wrong_checksum_and_a_wrong_length_are_refused(tmp_path, at):
    damaged = bytearray(gzipped(nifti()))
    damaged[at] ^= 1
    assert SAID.search(refused(tmp_path, bytes(damaged)))


def test_a_wrong_checksum_of_a_member_within_is_refused(tmp_path):
    first, second, *others = members(nifti(), 1000)
    assert SAID.search(refused(tmp_path, b"".join([first, second[:-8] + b"abcd" + second[-4:], *others])))


@pytest.mark.parametrize(
    "garbage", [b"x", b"\0\0x", b"\x1f", b"\x1f\x8b", b"trailing text", bytes(300000) + b"\x1f\x8b"]
)
def test_what_is_no_stream_behind_a_stream_is_refused(tmp_path, garbage):
    assert "must be a complete NIfTI file" in refused(tmp_path, gzipped(nifti()) + garbage)


def test_zeros_behind_a_stream_are_padding(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, gzipped(nifti()) + bytes(300001)), body_hu())


def test_more_voxels_in_another_member_are_refused(tmp_path):
    assert "must end with the last voxel" in refused(tmp_path, gzipped(nifti()) + gzipped(b"more"))


def test_a_stream_within_a_stream_is_refused(tmp_path):
    assert refused(tmp_path, gzipped(gzipped(nifti()))).endswith("got a gzip stream within a gzip stream")


def test_a_small_stream_that_inflates_without_end_is_refused_unread(tmp_path):
    bomb = gzipped(nifti() + bytes(10)) + gzipped(bytes(2**23)) * 128  # a gigabyte
    path = put(tmp_path / "case.nii.gz", bomb)
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "must end with the last voxel" in message
    assert peak < 2**21


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])
def test_a_ct_is_in_memory_once(tmp_path, signs):
    affine = np.diag([*signs, 1.0]) @ AFFINE
    hu = body_hu((208, 176, 120))
    path = put(tmp_path / "case.nii.gz", gzipped(nifti(hu, affine=np.diag([0.1, 0.1, 0.1, 1.0]) @ affine), 1))
    tracemalloc.start()
    ct = load_ct(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(ct.array_zyx.T[:: signs[0], :: signs[1]], hu)
    assert peak < hu.nbytes + 2**22 < 1.5 * hu.nbytes  # the judgement of grey values takes 3 MiB, however large the CT


@pytest.mark.parametrize("mode", ["nifti1", "nifti2"])
def test_hundreds_of_damaged_headers_are_refused_or_read_as_nibabel_reads_them(mode):
    found = fuzz.fuzz(fuzz.MODES[mode], n=100, seed=1)
    assert found.nothing, found
    assert found.read + found.refused == 100
    assert min(found.read, found.refused) > 20


def test_hundreds_of_flipped_bits_are_refused_where_gzip_refuses_them():
    found = fuzz.fuzz(fuzz.MODES["gz"], n=200, seed=1)
    assert found.nothing, found
    assert found.refused > 190


@pytest.mark.parametrize("mode", ["nifti1", "nifti2", "gz"])
def test_what_is_damaged_is_sound_before(tmp_path, mode):
    fuzzed = fuzz.MODES[mode]
    for data in fuzzed.sound():
        volume = load_ct(fuzzed.put(tmp_path, data))
        assert fuzzed.judge(data, volume) is None


def test_a_fuzzer_finds_what_is_wrong(monkeypatch):
    never_refused = fuzz.Mode(3, fuzz.sound_streams, fuzz.flip_a_bit, fuzz.put_nifti, fuzz.as_gzip_reads)
    some = load_ct
    sound = fuzz.sound_streams()[0]

    def careless(path):
        return some(put(path, sound))

    monkeypatch.setattr(fuzz, "load_ct", careless)
    found = fuzz.fuzz(never_refused, n=3, seed=0)
    assert len(found.wrong) == 3
    assert "a damaged stream was read" in found.wrong[0]

    def broken(path):
        raise KeyError("dim")

    monkeypatch.setattr(fuzz, "load_ct", broken)
    assert fuzz.fuzz(never_refused, n=3, seed=0).undocumented == dict.fromkeys(range(3), "KeyError: 'dim'")
    monkeypatch.setattr(fuzz, "MOST_SECONDS", -1.0)
    monkeypatch.setattr(fuzz, "MOST_EXTRA_MIB", -1e9)
    found = fuzz.fuzz(never_refused, n=1, seed=0)
    assert list(found.too_slow) == list(found.too_large) == [0]
    assert not found.nothing
