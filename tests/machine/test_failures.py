"""What ended the work on one case, in one line."""

import errno
import os
import tarfile

import pytest

from flare_lib.machine.failures import Failure, attempt, reason_of


class Unavailable(OSError):
    """A library's own kind, whose message is for people."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a CT must be 3-D,\n  got 2-D"), "a CT must be 3-D, got 2-D"),
        (TypeError("labels must be integers, got float"), "labels must be integers, got float"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b.nii.gz"), "a/b.nii.gz: No space left on device"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (FileNotFoundError("a folder must hold CTs, got none"), "a folder must hold CTs, got none"),
        (Unavailable("a package must be had, got none"), "a package must be had, got none"),
        (MemoryError(), "there must be enough memory for it, got too little"),
        (
            MemoryError("32 TiB for an array"),
            "there must be enough memory for it, got too little (32 TiB for an array)",
        ),
        (OverflowError("too large"), "OverflowError: too large"),
        (KeyError("a"), "KeyError: 'a'"),
        (tarfile.ReadError("odd"), "ReadError: odd"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_an_error_is_one_line_and_what_was_not_written_for_people_has_its_name(error, said):
    assert reason_of(error).startswith(said)
    assert "\n" not in reason_of(error)


def divide(number):
    return 6 / number


def test_an_exception_is_a_failure_and_an_interruption_is_not():
    done = attempt(divide, 3)
    assert done.result == 2
    assert done.peak_mib > 1
    assert done.seconds >= 0
    assert attempt(divide, 0) == Failure("ZeroDivisionError: division by zero")

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted, 1)


@pytest.mark.parametrize(("number", "passes"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.ENOENT, False)])
def test_what_the_disk_refused_says_nothing_about_the_case(number, passes):
    def save(_):
        raise OSError(number, os.strerror(number), "labels.nii.gz")

    assert attempt(save, 1) == Failure(f"labels.nii.gz: {os.strerror(number)}", passing=passes)
    assert not attempt(divide, 0).passing
