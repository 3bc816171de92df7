"""Whether a file or a folder is still what it was."""

import hashlib
import os

import pytest

from flare_lib.machine.fingerprint import sha256_of, stamp_of


def test_a_files_content_and_stamp(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert sha256_of(path) == hashlib.sha256(b"content").hexdigest()
    stamp = stamp_of(path)
    assert len(stamp) == 16
    assert stamp_of(path) == stamp
    os.utime(path, ns=(1, 1))
    touched = stamp_of(path)
    path.write_bytes(b"context")
    os.utime(path, ns=(1, 1))
    assert stamp != touched == stamp_of(path)  # the same size and time: only the content tells
    assert sha256_of(path) != hashlib.sha256(b"content").hexdigest()


def test_a_folder_is_all_its_files_and_their_names(tmp_path):
    (tmp_path / "s" / "t").mkdir(parents=True)
    (tmp_path / "s" / "1").write_bytes(b"ab")
    (tmp_path / "s" / "t" / "2").write_bytes(b"c")
    content, stamp = sha256_of(tmp_path / "s"), stamp_of(tmp_path / "s")
    (tmp_path / "s" / ".hidden").write_bytes(b"x")
    (tmp_path / "s" / "nowhere").symlink_to(tmp_path / "none")
    assert (sha256_of(tmp_path / "s"), stamp_of(tmp_path / "s")) == (content, stamp)
    (tmp_path / "s" / "t" / "2").rename(tmp_path / "s" / "t" / "3")
    assert sha256_of(tmp_path / "s") != content
    assert stamp_of(tmp_path / "s") != stamp
    (tmp_path / "s" / "t" / "3").rename(tmp_path / "s" / "t" / "2")
    (tmp_path / "s" / "1").write_bytes(b"a")
    (tmp_path / "s" / "t" / "2").write_bytes(b"bc")
    assert sha256_of(tmp_path / "s") != content


@pytest.mark.parametrize("function", [sha256_of, stamp_of])
def test_what_is_not_there_is_an_error(tmp_path, function):
    with pytest.raises(FileNotFoundError):
        function(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
@pytest.mark.parametrize("function", [sha256_of, stamp_of])
def test_a_pipe_is_an_error_and_is_not_waited_for(tmp_path, function):
    os.mkfifo(tmp_path / "ct.nii")
    with pytest.raises(OSError, match=r"must be a file or a folder, got a pipe or a device: '.*ct\.nii'"):
        function(tmp_path / "ct.nii")
