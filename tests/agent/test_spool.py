"""
The spool: order, bounds, and who may send what when processes live and die.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from trainvitals.spool import Spool, safe_name, spool_root, write_whole

URL = "http://monitor:8420"


def drain(spool: Spool) -> list[bytes]:
    """Everything that waits, oldest first, as if it had arrived."""
    blobs = []
    while (blob := spool.oldest()) is not None:
        blobs.append(blob)
        spool.sent()
    return blobs


def test_frames_come_back_in_the_order_they_were_put(tmp_path: Path) -> None:
    """First in, first out, and nothing is left on disk."""
    spool = Spool(tmp_path, URL, 1000)
    for blob in (b"1", b"2", b"3"):
        assert spool.put(blob) == []
    assert len(spool) == 3
    assert drain(spool) == [b"1", b"2", b"3"]
    spool.close()
    assert not list(spool.folder.iterdir())


def test_the_oldest_frames_make_room_and_are_handed_back(tmp_path: Path) -> None:
    """Beyond the bound the oldest go, so that their loss can be counted."""
    spool = Spool(tmp_path, URL, 10)
    assert [spool.put(bytes([48 + i]) * 4) for i in range(4)] == [[], [], [b"0000"], [b"1111"]]
    assert drain(spool) == [b"2222", b"3333"]


def test_a_living_senders_frames_are_not_touched(tmp_path: Path) -> None:
    """Two ranks on a node: neither adopts what the other holds, and neither drops the other's frames."""
    one, two = Spool(tmp_path, URL, 10), Spool(tmp_path, URL, 10)
    one.put(b"one one")
    assert two.adopt() == 0
    two.put(b"two two")
    assert drain(one) == [b"one one"]
    assert drain(two) == [b"two two"]


def test_what_a_gone_process_left_is_adopted_by_one_and_goes_first(tmp_path: Path) -> None:
    """After a close (or a death) one other sender takes the frames, before its own."""
    gone = Spool(tmp_path, URL, 1000)
    gone.put(b"old")
    gone.close()
    one, two = Spool(tmp_path, URL, 1000), Spool(tmp_path, URL, 1000)
    one.put(b"new")
    assert (one.adopt(), two.adopt()) == (1, 0)
    assert drain(one) == [b"old", b"new"]


def _die_with_a_frame(root: Path) -> None:
    Spool(root, URL, 1000).put(b"last words")
    os._exit(9)


def test_a_killed_process_leaves_its_frames_to_the_next(tmp_path: Path) -> None:
    """The lock goes with the process, however it ended."""
    process = multiprocessing.get_context("spawn").Process(
        target=_die_with_a_frame, args=(tmp_path,)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 9
    spool = Spool(tmp_path, URL, 1000)
    assert spool.adopt() == 1
    assert drain(spool) == [b"last words"]


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    """forget() in a child leaves the parent's lock alone, and the child's copy does not outlive the parent."""
    spool = Spool(tmp_path, URL, 1000)
    spool.put(b"mine")
    other = Spool(tmp_path, URL, 1000)
    pid = os.fork()
    if pid == 0:
        spool.forget()
        os._exit(0 if other.adopt() == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert drain(spool) == [b"mine"]


def test_two_monitors_have_two_folders(tmp_path: Path) -> None:
    """Frames for one monitor never go to another."""
    Spool(tmp_path, "http://a:1", 1000).put(b"for a")
    spool = Spool(tmp_path, "http://b:1", 1000)
    assert spool.adopt() == 0


def test_frames_that_somebody_deleted_are_passed_over(tmp_path: Path) -> None:
    """A cleaned cache is no failure: the next frame goes, and a new folder is made."""
    spool = Spool(tmp_path, URL, 1000)
    spool.put(b"1")
    spool.put(b"2")
    sorted(spool.folder.rglob("*.safetensors"))[0].unlink()
    assert drain(spool) == [b"2"]
    for path in sorted(spool.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(OSError, match="No such file"):
        spool.put(b"3")
    spool.put(b"4")
    assert drain(spool) == [b"4"]


def test_nothing_half_written_is_taken_for_a_frame(tmp_path: Path) -> None:
    """A write that fails leaves neither the file nor a part of it."""
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "none" / "x.safetensors", b"x")
    write_whole(tmp_path / "x.safetensors", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 300, "ü", "a b", "CON\n"])
def test_safe_names_stay_in_their_folder_and_apart(name: str) -> None:
    """Whatever a run is called, its folder is one harmless name, and different names do not meet."""
    safe = safe_name(name)
    assert safe
    assert "/" not in safe
    assert not safe.startswith(".")
    assert len(safe) < 100
    assert safe != safe_name(name + "?")
    assert safe_name("llama-7b.v2") == "llama-7b.v2"


def test_the_default_spool_is_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_CACHE_HOME counts; a folder that cannot be written gives way to the temporary one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert spool_root() == tmp_path / "trainvitals" / "spool"
    assert spool_root("given").is_absolute()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "trainvitals-spool-" in spool_root().name
