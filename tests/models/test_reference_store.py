"""The reference store: the numbers of the online reference, computed once, found again, never stale, never half."""

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import random_groups
from safetensors import SafetensorError
from tiny import tiny_model

from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.models import reference_store
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import no_grad
from tokenq.models.identity import identify
from tokenq.models.reference_store import ReferenceStore, response_key
from tokenq.records.examples import TokenGroup, TokenResponse

SHAPES = tuple((3 + i, (2 + i, 5 - i)) for i in range(4))
GROUPS = random_groups(SHAPES)  # four pairs of seven tokens and a prompt
BUDGET = 30


class Counting:
    """A scorer that counts its calls, and breaks off at one of them when asked to."""

    def __init__(self, scorer, stop_at=None):
        self.scorer, self.calls, self.stop_at = scorer, 0, stop_at

    def __call__(self, batch):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return self.scorer(batch)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def scorer(model):
    return no_grad(PackedLM(model, "segments"))


@pytest.fixture(scope="module")
def identity(model):
    return identify(model, "somewhere")


def keys_of(groups):
    return [response_key(group.prompt_ids, response) for group in groups for response in group.responses]


def shards(store):
    return sorted(store.folder.glob("*.safetensors"))


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_stored_is_online(on_disk, tmp_path, scorer, identity):
    """In whatever composition the batches come: other groups together, other order, indices into the data set."""
    store = ReferenceStore(tmp_path if on_disk else None, identity)
    assert store.fill(GROUPS, scorer, BUDGET) == 8
    assert len(store) == 8
    stored = store.with_logps(GROUPS)
    for places in ([0, 1, 2, 3], [2], [3, 0]):
        batch = pack([stored[p] for p in places], places)
        got = batch.actions.token_columns["ref_logps"]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, scorer(batch), rtol=0, atol=5e-6)
    assert list(tmp_path.iterdir()) == ([store.folder] if on_disk else [])


def test_what_is_read_from_disk_is_bitwise_what_was_computed(tmp_path, scorer, identity):
    first = ReferenceStore(tmp_path, identity)
    first.fill(GROUPS, scorer, BUDGET)
    second = ReferenceStore(tmp_path, identity)
    for key in keys_of(GROUPS):
        assert second[key].tobytes() == first[key].tobytes()
        assert second[key].dtype == np.float32


def test_the_second_time_nothing_is_computed(tmp_path, scorer, identity):
    counting = Counting(scorer)
    assert ReferenceStore(tmp_path, identity).fill(GROUPS, counting, BUDGET) == 8
    calls = counting.calls
    assert calls >= 2
    again = ReferenceStore(tmp_path, replace(identity, path="moved elsewhere"))
    assert again.fill(GROUPS, counting, 1000) == 0
    assert again.fill(GROUPS[::-1], counting, BUDGET) == 0
    # What surrounds the tokens is no part of the key: pairs or not, where they came from, whether they ended.
    other = [
        TokenGroup(g.prompt_ids, tuple(replace(r, terminal=False) for r in g.responses), False, "x") for g in GROUPS
    ]
    assert again.fill(other, counting, BUDGET) == 0
    assert counting.calls == calls
    assert len(shards(again)) == 1


def test_only_what_is_missing_is_computed(tmp_path, scorer, identity):
    seen = []
    store = ReferenceStore(tmp_path, identity)
    assert store.fill(GROUPS[:2], scorer, BUDGET) == 4

    def watching(batch):
        seen.append(batch.actions.shape[0])
        return scorer(batch)

    assert store.fill(GROUPS, watching, 1000) == 4
    assert seen == [4]
    assert len(ReferenceStore(tmp_path, identity)) == 8


def test_a_response_has_one_value_whatever_is_computed_beside_it_later(tmp_path, scorer, identity):
    """A group with a new response is computed whole; the known response keeps its number, for every later reader."""
    known, grown = GROUPS[0], replace(GROUPS[0], responses=(GROUPS[0].responses[0], GROUPS[1].responses[1]))
    key = keys_of([known])[0]
    store = ReferenceStore(tmp_path, identity)
    store.fill([known], scorer, BUDGET)
    first = store[key].tobytes()
    store.fill([grown], lambda batch: scorer(batch) + 1e-6, BUDGET)
    assert store[key].tobytes() == first
    assert {one.tobytes() for one in (ReferenceStore(tmp_path, identity)[key], store[key])} == {first}


def test_of_two_values_by_two_processes_the_first_counts(tmp_path, scorer, identity):
    """Neither knew of the other; whoever reads later finds the value that was written first, by whatever name."""
    for round_ in range(4):
        one, other = (ReferenceStore(tmp_path / str(round_), identity) for _ in range(2))
        one.fill(GROUPS[:1], scorer, BUDGET)
        other.fill(GROUPS[:1], lambda batch: scorer(batch) + 1e-6, BUDGET)
        key = keys_of(GROUPS[:1])[0]
        assert ReferenceStore(tmp_path / str(round_), identity)[key].tobytes() == one[key].tobytes()
        other.refresh()
        assert other[key].tobytes() != one[key].tobytes()  # what a process has used, it goes on with


def change_ids(group):
    ids = group.responses[0].ids.copy()
    ids[-1] += 1
    return replace(group, responses=(replace(group.responses[0], ids=ids), *group.responses[1:]))


def change_mask(group):
    mask = group.responses[0].mask.copy()
    mask[-1] = not mask[-1]
    return replace(group, responses=(replace(group.responses[0], mask=mask), *group.responses[1:]))


def change_prompt(group):
    ids = group.prompt_ids.copy()
    ids[0] += 1
    return replace(group, prompt_ids=ids)


def move_the_boundary(group):
    """The same text, but its last prompt token is now the first of the response."""
    first = group.responses[0]
    ids, mask = np.append(group.prompt_ids[-1:], first.ids), np.append(True, first.mask)
    moved = (TokenResponse(ids, mask, True),)
    return replace(group, prompt_ids=group.prompt_ids[:-1], responses=moved, is_pair=False)


@pytest.mark.parametrize("change", [change_ids, change_mask, change_prompt, move_the_boundary])
def test_changed_tokens_are_computed_again(change, tmp_path, scorer, identity):
    store = ReferenceStore(tmp_path, identity)
    store.fill(GROUPS, scorer, BUDGET)
    changed = [change(GROUPS[0])]
    assert store.fill(changed, scorer, BUDGET) == len(changed[0].responses)
    batch = pack(store.with_logps(changed))
    torch.testing.assert_close(batch.actions.token_columns["ref_logps"], scorer(batch), rtol=0, atol=5e-6)


def another_weight(model):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-6
    return model


def another_type(model):
    return model.bfloat16()


def another_rotary_base(model):
    model.config.rope_parameters["rope_theta"] *= 2
    return model


def another_norm(model):
    model.config.rms_norm_eps *= 10
    return model


@pytest.mark.parametrize("change", [another_weight, another_type, another_rotary_base, another_norm])
def test_another_model_finds_nothing(change, tmp_path, scorer, identity):
    ReferenceStore(tmp_path, identity).fill(GROUPS, scorer, BUDGET)
    changed = identify(change(tiny_model("llama")), "somewhere")
    store = ReferenceStore(tmp_path, changed)
    assert len(store) == 0
    assert not any(key in store for key in keys_of(GROUPS))
    assert len(ReferenceStore(tmp_path, identity)) == 8
    assert len(list(tmp_path.iterdir())) == 2


def test_another_version_of_the_format_finds_nothing(tmp_path, scorer, identity, monkeypatch):
    ReferenceStore(tmp_path, identity).fill(GROUPS, scorer, BUDGET)
    monkeypatch.setattr(reference_store, "VERSION", reference_store.VERSION + 1)
    assert len(ReferenceStore(tmp_path, identity)) == 0


def test_a_kill_between_shards_costs_what_came_after(tmp_path, scorer, identity, monkeypatch):
    """One group a forward, two responses a shard: broken off in the third forward, two shards are there."""
    monkeypatch.setattr(reference_store, "FLUSH_ROWS", 2)
    counting = Counting(scorer, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        ReferenceStore(tmp_path, identity).fill(GROUPS, counting, 1)
    store = ReferenceStore(tmp_path, identity)
    assert (len(store), len(shards(store))) == (4, 2)
    assert store.fill(GROUPS, counting, 1) == 4
    assert counting.calls == 3 + 2
    assert len(ReferenceStore(tmp_path, identity)) == 8


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")])
def test_a_full_disk_is_an_error_that_leaves_the_store_whole(problem, tmp_path, scorer, identity, monkeypatch):
    store = ReferenceStore(tmp_path, identity)
    store.fill(GROUPS[:2], scorer, BUDGET)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}

    def fail(_tensors, path):
        path.write_bytes(b"half a file")
        raise problem

    monkeypatch.setattr(reference_store, "save_file", fail)
    with pytest.raises(UserError, match=r"cannot be written.*\n  Free some space.*--reference-store off"):
        store.fill(GROUPS, scorer, BUDGET)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before
    assert len(ReferenceStore(tmp_path, identity)) == 4


def cut(data):
    return data[: len(data) // 2]


def cut_a_little(data):
    return data[:-4]


def empty(_data):
    return b""


def garbage(data):
    return b"\xff" * len(data)


def other_tensors(data):
    return data.replace(b'"lengths"', b'"lengthz"')


def shorter_keys(data):
    return data.replace(b'"shape":[4,16]', b'"shape":[2,32]')


@pytest.mark.parametrize("damage", [cut, cut_a_little, empty, garbage, other_tensors, shorter_keys])
def test_a_damaged_shard_is_named(damage, tmp_path, scorer, identity):
    store = ReferenceStore(tmp_path, identity)
    store.fill(GROUPS[:2], scorer, BUDGET)
    shard = shards(store)[0]
    data = shard.read_bytes()
    assert damage(data) != data
    shard.write_bytes(damage(data))
    with pytest.raises(UserError, match=rf"{shard.name} is damaged.\n  Delete that file"):
        ReferenceStore(tmp_path, identity)
    shard.unlink()
    assert ReferenceStore(tmp_path, identity).fill(GROUPS[:2], scorer, BUDGET) == 4


def test_a_store_that_cannot_be_opened_is_named(tmp_path, identity):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be opened.*\n  Name another with --reference-store"):
        ReferenceStore(tmp_path / "file", identity)


def test_two_processes_see_what_the_other_has_written(tmp_path, scorer, identity):
    first, second = (ReferenceStore(tmp_path, identity) for _ in range(2))
    first.fill(GROUPS[:2], scorer, BUDGET)
    second.fill(GROUPS[2:], scorer, BUDGET)
    assert len(second) == 4
    second.refresh()
    assert len(second) == 8
    assert second.fill(GROUPS, Counting(scorer, stop_at=1), BUDGET) == 0


@pytest.mark.parametrize("broken", [torch.nan, -torch.inf])
def test_what_is_no_number_is_not_kept(broken, tmp_path, scorer, identity):
    def failing(batch):
        return torch.where(batch.actions.responses == 3, broken, scorer(batch))

    store = ReferenceStore(tmp_path, identity)
    with pytest.raises(
        UserError, match=r"a log-prob of (nan|-inf) to response 2 of row 0"
    ):  # the longer row comes first
        store.fill(GROUPS[:2], failing, 1000)
    assert len(ReferenceStore(tmp_path, identity)) == 0


def test_many_may_open_a_new_store_at_the_same_time(tmp_path, identity):
    """As the processes of one run do, or two runs that share the default store."""

    def open_it(i):
        return ReferenceStore(tmp_path / str(i // 8), identity).folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(open_it, range(400)))
    for folder in set(folders):
        assert [path.name for path in folder.iterdir()] == ["model.json"]
        assert json.loads((folder / "model.json").read_text())["weights"] == identity.weights


def test_what_a_killed_writer_left_is_cleared_away_after_a_day(tmp_path, identity):
    folder = ReferenceStore(tmp_path, identity).folder
    old, fresh = folder / ".old.tmp", folder / ".fresh.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half a shard")
    os.utime(old, (0, time.time() - 2 * 86_400))
    ReferenceStore(tmp_path, identity)
    assert not old.exists()
    assert fresh.exists()


def test_progress_is_told_in_responses(identity, scorer):
    told = []
    ReferenceStore(None, identity).fill(GROUPS, scorer, 1, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 8), (4, 8), (6, 8), (8, 8)]


def test_the_folder_says_which_model_it_is_of(tmp_path, identity):
    store = ReferenceStore(tmp_path, identity)
    text = (store.folder / "model.json").read_text()
    assert identity.weights in text
    assert '"somewhere"' in text


def test_half_precision_comes_back_as_it_was(tmp_path):
    model = tiny_model("llama", dtype=torch.bfloat16)
    scorer, identity = no_grad(PackedLM(model, "segments")), identify(model, "half")
    store = ReferenceStore(tmp_path, identity)
    store.fill(GROUPS, scorer, 1)
    batch = pack(ReferenceStore(tmp_path, identity).with_logps(GROUPS[:1]))
    assert torch.equal(batch.actions.token_columns["ref_logps"], scorer(batch))
