"""A gzip stream that is read once, in order, and trusted only to its end.

Every member's checksum and length are compared by zlib when its end is reached, so bytes count as read only once the
stream has been read to its end. As `gzip` does, it takes several members one after another and zeros behind the last.
Reference: RFC 1952.
"""

import io
import zlib
from typing import Any, BinaryIO

MAGIC = b"\x1f\x8b"
MOST_PER_BYTE = 1032  # deflate's best: 258 bytes for 2 bits

_CHUNK_BYTES = 256 * 1024
_GZIP_WRAPPED = 16 + zlib.MAX_WBITS


class GzipStream(io.RawIOBase):
    """The bytes that a gzip file inflates to; `file` is opened for bytes and stays the caller's to close.

    Raises zlib.error while reading for a damaged member, for a wrong checksum or length at its end and for what is no
    gzip member behind it; EOFError for a stream that is cut. Holds one chunk of the file at a time.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting = b""
        self._inflate = zlib.decompressobj(_GZIP_WRAPPED)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the front of a buffer; return how many bytes, 0 at the end of the stream alone."""
        view = memoryview(buffer).cast("B")
        inflated = b""
        while len(view) and not inflated:
            if self._inflate.eof and not self._another_member():
                break
            chunk = self._waiting or self._file.read(_CHUNK_BYTES)
            inflated = self._inflate.decompress(chunk, len(view))
            self._waiting = self._inflate.unconsumed_tail
            if not chunk and not inflated and not self._inflate.eof:
                raise EOFError("the gzip stream ends early")
        view[: len(inflated)] = inflated
        return len(inflated)

    def _another_member(self) -> bool:
        """Skip zeros behind a member; begin the next one, or say that there is none."""
        self._waiting = self._inflate.unused_data.lstrip(b"\0")
        while not self._waiting:
            chunk = self._file.read(_CHUNK_BYTES)
            if not chunk:
                return False
            self._waiting = chunk.lstrip(b"\0")
        self._inflate = zlib.decompressobj(_GZIP_WRAPPED)
        return True
