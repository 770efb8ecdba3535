"""Checkpoints: whole or not at all, the newest kept, unreadable ones named, an adapter's alone."""

import errno
import hashlib
import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_runs import files_of, small_config, small_policy, train_small, weights_of
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from tokenq.errors import UserError
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.load import add_lora
from tokenq.rundir import ACCOUNT, RunDir, resume_run
from tokenq.training import checkpoint


class Prepared:
    """A policy that an accelerator holds, and its checkpoints in a folder."""

    def __init__(self, folder, lora=False, form="as_trained", policy=None):
        self.accelerator, self.run = Accelerator(cpu=True), RunDir(folder)
        self.policy = policy or small_policy(lora)
        checkpoint.hand_over_weights(self.accelerator)
        optimizer = torch.optim.SGD([p for p in self.policy.parameters() if p.requires_grad], lr=0.1)
        self.accelerator.prepare(self.policy, optimizer)
        files = files_of(self.policy, small_config(folder), form)
        self.trained = checkpoint.Trained(self.policy, files, {}, [])

    def save(self, step, keep=1):
        place = checkpoint.save(self.accelerator, self.trained, self.run, step)
        checkpoint.prune(self.accelerator, self.run, keep)
        return place

    def load(self):
        return checkpoint.load_latest(self.accelerator, self.trained, self.run)


def move(policy, by):
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += by


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("lora", "form"),
    [(False, "as_trained"), (True, "as_trained"), (True, "merged")],
    ids=["full", "adapter", "merged"],
)
def test_what_was_saved_comes_back(tmp_path, lora, form):
    one = Prepared(tmp_path, lora, form)
    move(one.policy, 0.05)
    want = weights_of(one.policy)
    assert one.save(7) == tmp_path / "checkpoints" / "step-7"
    move(one.policy, 1.0)
    assert one.load() == 7
    assert all(torch.equal(want[name], value) for name, value in weights_of(one.policy).items())


def test_the_newest_is_loaded_and_so_many_are_kept(tmp_path):
    one = Prepared(tmp_path)
    for step in (5, 90, 100):
        move(one.policy, 0.5)
        one.save(step, keep=2)
    want = weights_of(one.policy)
    assert names(one.run.checkpoints) == ["step-100", "step-90"]
    move(one.policy, 1.0)
    assert one.load() == 100
    assert all(torch.equal(want[name], value) for name, value in weights_of(one.policy).items())


def test_none_is_step_0(tmp_path):
    one = Prepared(tmp_path)
    assert one.load() == 0
    assert Prepared(tmp_path / "nowhere").load() == 0


def test_an_adapters_checkpoint_holds_the_adapter_alone(tmp_path):
    one = Prepared(tmp_path, lora=True)
    folder = one.save(1)
    stored = load_file(folder / "adapter_model.safetensors")
    trained = {name: p for name, p in one.policy.named_parameters() if p.requires_grad}
    assert set(stored) == {name.removeprefix("model.").replace(".default", "") for name in trained}
    assert all("lora_" in name for name in stored)
    assert not list(folder.rglob("model.safetensors"))
    full = load_file(Prepared(tmp_path).save(2) / "model.safetensors")
    assert len(full) > 10


def test_weights_are_written_once(tmp_path):
    """Beside the policy only what SGD without momentum and the generators hold: a few kilobytes."""
    folder = Prepared(tmp_path).save(1)
    state = folder / checkpoint.STATE
    assert names(state) == ["optimizer.bin", "random_states_0.pkl"]
    assert sum(path.stat().st_size for path in state.iterdir()) < 0.2 * (folder / "model.safetensors").stat().st_size


def test_an_adapter_that_is_merged_lies_beside_its_merge(tmp_path):
    one = Prepared(tmp_path, lora=True, form="merged")
    move(one.policy, 0.05)
    folder = one.save(1)
    stored = load_file(folder / checkpoint.STATE / "weights.safetensors")
    assert stored
    assert all("lora_" in name for name in stored)
    with torch.no_grad(), one.policy.own_attention_restored() as model:
        ids = torch.arange(20)[None]
        whole = AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(whole(ids).logits, model(ids).logits, rtol=0, atol=1e-10)


def test_a_merge_in_half_precision_loses_nothing(tmp_path):
    """Written in float32: the change that an adapter has learnt after a few steps would round away in bfloat16."""
    one = Prepared(tmp_path, form="merged", policy=small_policy(lora=True, dtype=torch.bfloat16))
    move(one.policy, 1e-4)
    folder = one.save(1)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert whole.dtype == torch.float32
    base = {
        name: value.float() for name, value in tiny_model("gpt_neox", layers=1, dtype=torch.bfloat16).named_parameters()
    }
    moved = {name: value for name, value in whole.named_parameters() if not torch.equal(value, base[name])}
    assert moved
    assert all("dense" in name or "query_key_value" in name for name in moved)


def test_a_checkpoint_without_its_state_is_no_place_to_go_on_from(tmp_path):
    one = Prepared(tmp_path)
    one.save(2, keep=2)
    folder = one.save(3, keep=2)
    shutil.rmtree(folder / checkpoint.STATE)
    with pytest.raises(UserError, match=r"step-3 holds no optimiser state \(state/\)") as caught:
        one.load()
    assert f"--model {folder}" in caught.value.hint
    assert "delete that folder to resume from the one before" in caught.value.hint
    shutil.rmtree(folder)
    assert one.load() == 2


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
    one = Prepared(tmp_path)
    one.save(1)
    want = weights_of(one.policy)
    move(one.policy, 1.0)
    fail_after_writing(problem, one.accelerator, monkeypatch)
    with pytest.raises(raised):
        one.save(2)
    assert names(one.run.checkpoints) == ["step-1"]
    assert one.load() == 1
    assert all(torch.equal(want[name], value) for name, value in weights_of(one.policy).items())


@pytest.mark.integration
def test_what_a_kill_left_half_written_is_passed_over_and_cleared_away(tmp_path):
    """A kill leaves the folder aside as it stood, or a folder of ours without its last file, at no moment a lie."""
    run = tmp_path / "run"
    straight, _ = train_small(tmp_path / "straight", save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train_small(run, save_steps=2, stop=("train", 3))
    checkpoints = run / "checkpoints"
    aside = checkpoints / ".step-4.partial"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"half")
    torn = checkpoints / "step-3"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    resumed, summary = train_small(run, save_steps=2, resume=True)
    assert summary.steps == 6
    assert not aside.exists()
    for name, want in weights_of(straight).items():
        torch.testing.assert_close(weights_of(resumed)[name], want, rtol=0, atol=1e-12)


def test_resuming_clears_what_several_processes_left(tmp_path):
    left = tmp_path / "checkpoints" / ".shared.step-4.partial"
    left.mkdir(parents=True)
    resume_run(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "state/optimizer.bin", "state/random_states_0.pkl"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "flipped"])
def test_a_damaged_checkpoint_is_named(tmp_path, file, damage):
    one = Prepared(tmp_path)
    one.save(2, keep=2)
    folder = one.save(3, keep=2)
    path = folder / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\x80\x02junk" * 40)
    says = rf"The checkpoint .*step-3 cannot be read: {file} .*\n  Delete that folder"
    with pytest.raises(UserError, match=says):
        one.load()
    shutil.rmtree(folder)
    assert one.load() == 2


@pytest.mark.parametrize(
    "state",
    ["[]", "{}", "5", "null", '{"step": 3}', '{"step": "x", "files": {}}', '{"step": 1000000000, "files": {}}',
     '{"step": 3.0, "files": {}}', '{"step": true, "files": {}}', '{"step": 3, "files": []}',
     '{"step": 3, "files": {"model.safetensors": 5}}', '{"step": 3, "files": {"model.safetensors": {}}}', "{", "\x00"],
)  # fmt: skip
def test_an_account_that_is_none_is_named(tmp_path, state):
    one = Prepared(tmp_path)
    folder = one.save(3)
    (folder / ACCOUNT).write_text(state)
    with pytest.raises(UserError, match="step-3"):
        one.load()


def test_the_account_says_what_the_folder_holds(tmp_path):
    one = Prepared(tmp_path)
    folder = one.save(3)
    account = json.loads((folder / ACCOUNT).read_text())
    assert account["step"] == 3
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(account["files"]) == found - {ACCOUNT}
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
    one = Prepared(tmp_path)
    folder = one.save(3)

    def load(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(one.accelerator, "load_state", load)
    with pytest.raises(UserError, match=r"too little memory.*out of memory") as caught:
        one.load()
    assert "is whole" in caught.value.hint
    assert "elete" not in str(caught.value)
    assert folder.exists()


def test_a_kill_while_an_old_one_is_deleted_leaves_nothing_for_ever(tmp_path, monkeypatch):
    """The removal stops after the first file; what is left is no checkpoint, and is gone after the next start."""
    one = Prepared(tmp_path)
    one.save(1)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: next(path.iterdir()).unlink())
    one.save(2)
    monkeypatch.undo()
    assert [name for name in names(one.run.checkpoints) if not name.startswith(".")] == ["step-2"]
    torn = one.run.checkpoints / "step-1"
    torn.mkdir()
    (torn / "optimizer.bin").write_bytes(b"left by an older version")
    assert one.load() == 2
    assert not torn.exists()


def test_the_checkpoint_of_another_policy_is_named(tmp_path):
    Prepared(tmp_path, lora=True).save(3)
    wider = PackedLM(add_lora(tiny_model("gpt_neox", layers=1), rank=3, alpha=4.0, dropout=0.0, targets="all-linear"))
    with pytest.raises(UserError, match="was written for other weights"):
        Prepared(tmp_path, policy=wider).load()
