import pytest

from sparsetrain.support.files import remove_parts, write_atomically, write_text


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
    (tmp_path / "a.txt").write_text("whole")
    remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
