import errno

import pytest
from safetensors import SafetensorError

from sparsetrain.support.files import (
    remove_parts,
    write_atomically,
    write_text,
    write_together,
)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "whole")

    def fails(part):
        part.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fails)
    assert path.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / ".a.txt.x1.part").write_text("ha")
    (tmp_path / ".a.txt.x2.part").mkdir()  # nothing of ours
    (tmp_path / "a.txt").write_text("whole")
    remove_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.txt.x2.part", "a.txt"]


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_full_disk_is_one_error(error, tmp_path):
    def fails(part):
        raise error

    with pytest.raises(OSError, match=r"No space left on device: .*/a\.txt") as caught:
        write_atomically(tmp_path / "a.txt", fails)
    assert caught.value.errno == errno.ENOSPC


def test_a_file_that_grows_too_large_is_one_error(tmp_path):
    def fails(part):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    with pytest.raises(OSError, match=r"File too large: .*/a\.txt"):
        write_atomically(tmp_path / "a.txt", fails)


def test_an_error_of_another_file_stays_its(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*/b\.txt"):
        write_atomically(tmp_path / "a.txt", lambda part: (tmp_path / "b.txt").read_bytes())


def test_halves_of_characters_are_escaped(tmp_path):
    write_text(tmp_path / "a.txt", "ä\udcff")
    assert (tmp_path / "a.txt").read_bytes() == "ä\\udcff".encode()


def test_files_that_belong_together_come_together_or_not(tmp_path):
    path = tmp_path / "new" / "a"

    def write(folder):
        (folder / "a").write_text("one")
        (folder / "a.data").write_text("two")

    def fails(folder):
        (folder / "a.data").write_text("ha")
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    write_together(path, write)
    write_together(path, write)
    with pytest.raises(OSError, match=r"No space left on device: .*/new/a'"):
        write_together(path, fails)
    assert {p.name: p.read_text() for p in path.parent.iterdir()} == {"a": "one", "a.data": "two"}
