import os
import subprocess
import sys
import threading

import pytest

from sparsetrain.support.locks import FILE, exclusive

HOLDS = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


def another_process(path):
    command = [sys.executable, "-c", HOLDS, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_at_a_time_and_a_dead_one_is_none(tmp_path):
    with another_process(tmp_path / FILE) as other:
        with exclusive(tmp_path) as ours:
            assert not ours
        with exclusive(tmp_path) as ours:  # being refused leaves nothing behind
            assert not ours
        other.kill()
        other.wait()
        with exclusive(tmp_path) as ours:
            assert ours
    assert not list(tmp_path.iterdir())


def test_a_thread_may_enter_again_and_another_one_not(tmp_path):
    found = []

    def enter():
        with exclusive(tmp_path) as ours:
            found.append(ours)

    with exclusive(tmp_path), exclusive(tmp_path) as ours:
        assert ours
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert (tmp_path / FILE).exists()
    enter()
    assert found == [False, True]


def test_what_it_makes_goes_again_unless_it_is_used(tmp_path):
    with exclusive(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / FILE).exists()
    assert not list(tmp_path.iterdir())
    with exclusive(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").write_text("")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_link_is_not_followed(tmp_path):
    target, folder = tmp_path / "precious", tmp_path / "run"
    target.write_text("whole")
    folder.mkdir()
    (folder / FILE).symlink_to(target)
    with pytest.raises(OSError, match=FILE), exclusive(folder):
        pass
    assert target.read_text() == "whole"
    (folder / FILE).unlink()
    with exclusive(folder) as ours:  # what was raised has let go of it
        assert ours


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path, monkeypatch):
    opened = os.open

    def replaced(path, *how):
        descriptor = opened(path, *how)
        if os.path.basename(path) == FILE:
            monkeypatch.setattr(os, "open", opened)
            os.unlink(path)  # as one does who held it, between our open and our lock
        return descriptor

    monkeypatch.setattr(os, "open", replaced)
    with exclusive(tmp_path) as ours:
        assert ours
        assert (tmp_path / FILE).exists()
