"""Checkpoints: whole or not at all, the newest kept, unreadable ones named, an adapter's alone."""

import errno
import hashlib
import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_runs import small_policy, train_small, weights_of

from tokenq.errors import UserError
from tokenq.rundir import resume_run
from tokenq.training import checkpoint


def prepared(lora=False):
    """Return an accelerator that holds a policy, and the policy."""
    accelerator = Accelerator(cpu=True)
    policy = small_policy(lora)
    checkpoint.keep_trainable_only(accelerator, policy)
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.1)
    accelerator.prepare(policy, optimizer)
    return accelerator, policy


def move(policy, by):
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += by


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
def test_what_was_saved_comes_back(tmp_path, lora):
    accelerator, policy = prepared(lora)
    move(policy, 0.5)
    want = weights_of(policy)
    assert checkpoint.save(accelerator, tmp_path, 7, keep=1) == tmp_path / "step-00000007"
    move(policy, 1.0)
    assert checkpoint.load_latest(accelerator, tmp_path) == 7
    assert all(torch.equal(want[name], value) for name, value in weights_of(policy).items())


def test_the_newest_is_loaded_and_so_many_are_kept(tmp_path):
    accelerator, policy = prepared()
    for step in (5, 90, 100):
        move(policy, 0.5)
        checkpoint.save(accelerator, tmp_path, step, keep=2)
    want = weights_of(policy)
    assert names(tmp_path) == ["step-00000090", "step-00000100"]
    move(policy, 1.0)
    assert checkpoint.load_latest(accelerator, tmp_path) == 100
    assert all(torch.equal(want[name], value) for name, value in weights_of(policy).items())


def test_none_is_step_0(tmp_path):
    accelerator, _ = prepared()
    assert checkpoint.load_latest(accelerator, tmp_path) == 0
    assert checkpoint.load_latest(accelerator, tmp_path / "nowhere") == 0


def test_an_adapters_checkpoint_holds_the_adapter_alone(tmp_path):
    accelerator, policy = prepared(lora=True)
    folder = checkpoint.save(accelerator, tmp_path, 1, keep=1)
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in stored)
    accelerator, _ = prepared()
    full = load_file(checkpoint.save(accelerator, tmp_path, 2, keep=1) / "model.safetensors")
    assert len(full) > 10


def fail_after_writing(problem, accelerator, monkeypatch):
    """Let the accelerator write its files, and then fail."""
    save = accelerator.save_state

    def failing(folder):
        save(folder)
        raise problem

    monkeypatch.setattr(accelerator, "save_state", failing)


@pytest.mark.parametrize(
    ("problem", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0"), RuntimeError),
    ],
    ids=["interrupted", "full", "other"],
)
def test_a_failure_while_writing_leaves_the_older_one(tmp_path, monkeypatch, problem, raised):
    accelerator, policy = prepared()
    checkpoint.save(accelerator, tmp_path, 1, keep=1)
    want = weights_of(policy)
    move(policy, 1.0)
    fail_after_writing(problem, accelerator, monkeypatch)
    with pytest.raises(raised):
        checkpoint.save(accelerator, tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoint.load_latest(accelerator, tmp_path) == 1
    assert all(torch.equal(want[name], value) for name, value in weights_of(policy).items())


def test_what_a_kill_left_half_written_is_passed_over_and_cleared_away(tmp_path):
    """A kill leaves the folder aside as it stood, or a folder of ours without its last file, at no moment a lie."""
    run = tmp_path / "run"
    straight, _ = train_small(tmp_path / "straight", save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train_small(run, save_steps=2, stop=("train", 3))
    checkpoints = run / "checkpoints"
    aside = checkpoints / ".step-00000004.partial"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"half")
    torn = checkpoints / "step-00000003"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    resumed, summary = train_small(run, save_steps=2, resume=True)
    assert summary.steps == 6
    assert not aside.exists()
    for name, want in weights_of(straight).items():
        torch.testing.assert_close(weights_of(resumed)[name], want, rtol=0, atol=1e-12)


def test_resuming_clears_what_several_processes_left(tmp_path):
    left = tmp_path / "checkpoints" / ".shared.step-00000004.partial"
    left.mkdir(parents=True)
    resume_run(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "flipped"])
def test_a_damaged_checkpoint_is_named(tmp_path, file, damage):
    accelerator, _ = prepared()
    checkpoint.save(accelerator, tmp_path, 2, keep=2)
    folder = checkpoint.save(accelerator, tmp_path, 3, keep=2)
    path = folder / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\x80\x02junk" * 40)
    says = rf"The checkpoint .*step-00000003 cannot be read: {file} .*\n  Delete that folder"
    with pytest.raises(UserError, match=says):
        checkpoint.load_latest(accelerator, tmp_path)
    shutil.rmtree(folder)
    assert checkpoint.load_latest(accelerator, tmp_path) == 2


@pytest.mark.parametrize(
    "state",
    ["[]", "{}", "5", "null", '{"step": 3}', '{"step": "x", "files": {}}', '{"step": 1000000000, "files": {}}',
     '{"step": 3.0, "files": {}}', '{"step": true, "files": {}}', '{"step": 3, "files": []}',
     '{"step": 3, "files": {"model.safetensors": 5}}', '{"step": 3, "files": {"model.safetensors": {}}}', "{", "\x00"],
)  # fmt: skip
def test_an_account_that_is_none_is_named(tmp_path, state):
    accelerator, _ = prepared()
    folder = checkpoint.save(accelerator, tmp_path, 3, keep=1)
    (folder / checkpoint.STATE).write_text(state)
    with pytest.raises(UserError, match="step-00000003"):
        checkpoint.load_latest(accelerator, tmp_path)


def test_the_account_says_what_the_folder_holds(tmp_path):
    accelerator, _ = prepared()
    folder = checkpoint.save(accelerator, tmp_path, 3, keep=1)
    account = json.loads((folder / checkpoint.STATE).read_text())
    assert account["step"] == 3
    assert set(account["files"]) == {path.name for path in folder.iterdir()} - {checkpoint.STATE}
    for name, entry in account["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("lost", ["all", "last", "middle", "number"])
def test_metrics_that_do_not_tell_of_every_step_are_named(tmp_path, lost):
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path, save_steps=2, stop=("train", 5))
    path = tmp_path / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines(keepends=True) if '"loss"' in line]
    kept = {"all": [], "last": lines[:3], "middle": lines[:1] + lines[2:], "number": ['{"step": "x", "loss": 1}\n']}[
        lost
    ]
    path.write_text("".join(kept))
    step = {"all": 1, "last": 4, "middle": 2, "number": 1}[lost]
    with pytest.raises(UserError, match=rf"metrics.jsonl does not tell of step {step}, and .* is of step 4"):
        train_small(tmp_path, save_steps=2, resume=True)
    assert path.read_text() == "".join(kept)


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    accelerator, _ = prepared()
    folder = checkpoint.save(accelerator, tmp_path, 3, keep=1)

    def load(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(accelerator, "load_state", load)
    with pytest.raises(UserError, match=r"too little memory.*out of memory") as caught:
        checkpoint.load_latest(accelerator, tmp_path)
    assert "is whole" in caught.value.hint
    assert "elete" not in str(caught.value)
    assert folder.exists()


def test_a_kill_while_an_old_one_is_deleted_leaves_nothing_for_ever(tmp_path, monkeypatch):
    """The removal stops after the first file; what is left is no checkpoint, and is gone after the next start."""
    accelerator, _ = prepared()
    checkpoint.save(accelerator, tmp_path, 1, keep=1)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: next(path.iterdir()).unlink())
    checkpoint.save(accelerator, tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-00000002"]
    torn = tmp_path / "step-00000001"
    torn.mkdir()
    (torn / "optimizer.bin").write_bytes(b"left by an older version")
    assert checkpoint.load_latest(accelerator, tmp_path) == 2
    assert not torn.exists()


def test_the_checkpoint_of_another_policy_is_named(tmp_path):
    accelerator, _ = prepared(lora=True)
    checkpoint.save(accelerator, tmp_path, 3, keep=1)
    accelerator = Accelerator(cpu=True)
    policy = small_policy(lora=True)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("lora_A" in name)
    checkpoint.keep_trainable_only(accelerator, policy)
    accelerator.prepare(policy)
    with pytest.raises(UserError, match="was written for other trainable weights"):
        checkpoint.load_latest(accelerator, tmp_path)
