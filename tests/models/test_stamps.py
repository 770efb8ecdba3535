"""Files of a model: what tells that they changed, and what is done then."""

import os
import time

import pytest

from tokenq.errors import UserError
from tokenq.models import stamps as module
from tokenq.models.stamps import guarded, is_remote, refuse_moved, settled, stamps


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(b"12345678")
    return tmp_path


def names(found):
    return [stamp.path.rsplit("/", 1)[1] for stamp in found]


def test_what_decides_the_weights_is_stamped(folder):
    assert names(stamps([folder])) == ["adapter_model.safetensors", "config.json", "model.safetensors"]
    assert [stamp.size for stamp in stamps([folder])] == [8, 8, 8]


def test_links_are_followed_and_dangling_ones_left_out(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").symlink_to(folder / "model.safetensors")
    (other / "gone.bin").symlink_to(folder / "nothing")
    assert stamps([other]) == tuple(s for s in stamps([folder]) if s.path.endswith("/model.safetensors"))


def test_same_size_and_an_old_date_put_back_are_noticed(folder):
    """The date of the bytes can be set by anybody; that of the change cannot."""
    before = stamps([folder])
    file = folder / "model.safetensors"
    told = file.stat()
    time.sleep(0.02)
    file.write_bytes(b"87654321")
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert file.stat().st_mtime_ns == told.st_mtime_ns
    assert stamps([folder]) != before


def test_fresh_files_and_files_from_the_future_are_not_settled(folder, monkeypatch):
    now = time.time()
    assert not settled(stamps([folder]))
    monkeypatch.setattr(module.time, "time", lambda: now + 10)
    assert settled(stamps([folder]))
    os.utime(folder / "config.json", (now + 3600, now + 3600))
    assert not settled(stamps([folder]))
    assert not settled([])


def test_files_of_another_machine_settle_later(folder, monkeypatch):
    now = time.time()
    monkeypatch.setattr(module, "is_remote", lambda _: True)
    monkeypatch.setattr(module.time, "time", lambda: now + 10)
    assert not settled(stamps([folder]))
    monkeypatch.setattr(module.time, "time", lambda: now + 100)
    assert settled(stamps([folder]))


def test_the_innermost_mount_says_where_a_file_is(monkeypatch):
    mounts = (
        "/dev/sda / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/sdb /data/local xfs rw 0 0\nh:/ /mnt fuse.sshfs rw\n"
    )
    monkeypatch.setattr(module.Path, "read_text", lambda *_, **__: mounts)
    assert [is_remote(path) for path in ("/a/b", "/data/m/x", "/data/local/x", "/database/x", "/mnt/y")] == [
        False,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("how", ["written", "replaced", "deleted"])
def test_files_that_change_while_they_are_read_are_refused(folder, how):
    before = stamps([folder])
    refuse_moved(before)
    file = folder / "model.safetensors"
    if how == "written":
        file.write_bytes(b"123456789")
    elif how == "replaced":
        (folder / "aside").write_bytes(b"12345678")
        os.replace(folder / "aside", file)
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors was replaced or written to"):
        refuse_moved(before)


def test_other_names_and_rights_are_no_change(folder):
    before = stamps([folder])
    (folder / "model.safetensors").chmod(0o600)
    os.link(folder / "model.safetensors", folder / "twin")
    refuse_moved(before)


def test_results_of_mapped_weights_end_when_these_are_written_over(folder, monkeypatch):
    file = folder / "model.safetensors"
    before = stamps([folder])
    maps = {"mapped": f"7f00-7f01 rw-p 0 fe:00 1 {file}\n", "read": ""}
    monkeypatch.setattr(module, "_maps", lambda: maps["mapped"])
    results = guarded(iter(range(5)), before)
    assert next(results) == 0
    (folder / "aside").write_bytes(b"abc")
    os.replace(folder / "aside", folder / "config.json")  # the old file is still there for who has it open
    assert next(results) == 1
    file.write_bytes(b"123456789")
    with pytest.raises(UserError, match="written over while the model was in use"):
        next(results)
    monkeypatch.setattr(module, "_maps", lambda: maps["read"])  # a copy is in memory
    assert list(guarded(iter(range(3)), before)) == [0, 1, 2]
