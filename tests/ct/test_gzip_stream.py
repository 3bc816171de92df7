"""A gzip stream read in order: the bytes `gzip` reads, whatever sizes they are asked for in, by either library."""

import gzip
import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_lib.ct import gzip_stream
from flare_lib.ct.gzip_stream import MOST_PER_BYTE, GzipStream

DATA = np.random.default_rng(0).integers(0, 9, 5000).astype(np.uint8).tobytes()


@pytest.fixture(autouse=True, scope="module", params=["ISA-L", "zlib"])
def deflate_library(request):
    """Every test with each of them: ISA-L is missing on some machines."""
    library = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gzip_stream, "deflate_library", library)
        yield


def read(data, size):
    """Return all bytes, asked for `size` at a time."""
    stream, parts = GzipStream(io.BytesIO(data)), []
    while part := stream.read(size):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("size", [1, 50, 4999, 5000, 5001, 10**6])
def test_any_size_of_chunk_and_of_buffer_gives_the_same_bytes(monkeypatch, chunk, size):
    monkeypatch.setattr(gzip_stream, "_CHUNK_BYTES", chunk)
    data = gzip.compress(DATA[:1234]) + bytes(9) + gzip.compress(b"") + gzip.compress(DATA[1234:]) + bytes(5)
    assert read(data, size) == DATA


@pytest.mark.parametrize("chunk", [1, 11, 13, 4096])
def test_a_header_with_every_optional_field_may_lie_across_reads(monkeypatch, chunk):
    monkeypatch.setattr(gzip_stream, "_CHUNK_BYTES", chunk)
    header = b"\x1f\x8b\x08\x1e" + bytes(4) + b"\0\xff" + b"\x04\0abcd" + b"name\0" + b"comment\0"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    member = header + gzip.compress(DATA, mtime=0)[10:]
    assert read(member + gzip.compress(DATA[:9]) + member, 1000) == gzip.decompress(member) + DATA[:9] + DATA


def test_the_end_is_an_end_however_often_it_is_asked_for():
    stream = GzipStream(io.BytesIO(gzip.compress(DATA)))
    assert stream.readable()
    assert stream.readinto(bytearray(0)) == 0
    assert stream.readall() == DATA
    assert [stream.readinto(bytearray(3)) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("chunk", [3, 4096])
def test_a_stream_is_cut_at_every_byte_but_the_last(monkeypatch, chunk):
    monkeypatch.setattr(gzip_stream, "_CHUNK_BYTES", chunk)
    sound = gzip.compress(DATA[:40], mtime=0)
    for kept in range(len(sound)):
        with pytest.raises(EOFError, match="ends early"):
            read(sound[:kept], 100)
    assert read(sound, 100) == DATA[:40]


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.integers(0, 7), st.sampled_from([0, 1, 9]))
def test_what_gzip_refuses_after_a_flipped_bit_is_refused(at, bit, level):
    damaged = bytearray(gzip.compress(DATA, level, mtime=0))
    damaged[at % len(damaged)] ^= 1 << bit
    try:
        expected = gzip.decompress(bytes(damaged))
    except (OSError, EOFError, zlib.error):
        with pytest.raises((EOFError, zlib.error)):
            read(bytes(damaged), 700)
    else:
        assert expected == DATA  # a bit that says when or where it was written


def test_a_damaged_stream_is_refused_with_one_kind_of_error():
    sound = gzip.compress(DATA, mtime=0)
    for at, damage in ((0, b"GZ"), (100, bytes(40)), (len(sound) - 8, b"crc!"), (len(sound), b"trailing text")):
        with pytest.raises(zlib.error, match="Error -"):
            read(sound[:at] + damage + sound[at + len(damage) :], 700)


def test_zeros_deflate_to_no_less_than_their_bound():
    for n in (10**4, 10**6):
        assert n / len(gzip.compress(bytes(n), 9)) < MOST_PER_BYTE
    assert 10**6 / len(gzip.compress(bytes(10**6), 9)) > 0.95 * MOST_PER_BYTE
