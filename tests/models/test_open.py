"""Opening: identities and proofs of earlier runs are used, checked, and found anew where anything differs."""

import json
import os
import time
from dataclasses import replace

import pytest
import torch
from builders import own_logps, random_groups
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer

from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.models import identity as identities
from tokenq.models import open as opening
from tokenq.models import stamps
from tokenq.models.forward import proof_cache
from tokenq.models.forward.proof_cache import proven
from tokenq.models.identity import identify
from tokenq.models.load import ModelSpec, add_lora, load_model
from tokenq.models.open import open_model, weights_of
from tokenq.models.tokenizer import open_tokenizer


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch):
    """Files of these tests are moments old."""
    monkeypatch.setattr(stamps, "_SETTLED", -1.0)
    opening._open.clear()


@pytest.fixture
def hashed(monkeypatch):
    """How often weights were hashed."""
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return identify(*arguments, **options)

    monkeypatch.setattr(identities, "identify", counted)
    return calls


@pytest.fixture
def proved(monkeypatch):
    """How often a model was put to the proof."""
    calls = []
    whole = proof_cache.fastest_exact

    def counted(*arguments, **options):
        calls.append(1)
        return whole(*arguments, **options)

    monkeypatch.setattr(proof_cache, "fastest_exact", counted)
    return calls


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    tiny_tokenizer().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def fresh(spec, **options):
    """Open as another process would."""
    opening._open.clear()
    return open_model(spec, **options)


def spec_of(folder, **more):
    return ModelSpec(str(folder), device="cpu", **more)


def change_weights(folder, *, keep_date=False):
    file = folder / "model.safetensors"
    told = file.stat()
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    next(iter(weights.values())).add_(0.25)
    time.sleep(0.02)
    with open(file, "r+b") as same:  # the same file, the same size
        save_file(weights, folder / "aside", metadata={"format": "pt"})
        same.write((folder / "aside").read_bytes())
    (folder / "aside").unlink()
    if keep_date:
        os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert file.stat().st_size == told.st_size


def test_a_kept_identity_is_that_of_the_live_model(folder, hashed):
    want = identify(load_model(spec_of(folder)), str(folder))
    for _ in range(3):
        assert fresh(spec_of(folder)).identity == want
    assert len(hashed) == 1


@pytest.mark.parametrize("keep_date", [False, True])
def test_changed_bytes_of_the_same_size_are_noticed(folder, keep_date):
    before = fresh(spec_of(folder)).identity
    change_weights(folder, keep_date=keep_date)
    after = fresh(spec_of(folder)).identity
    assert after.weights != before.weights
    assert after == identify(load_model(spec_of(folder)), str(folder))


def test_a_touched_file_is_hashed_again_to_the_same_identity(folder, hashed):
    before = fresh(spec_of(folder)).identity
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    assert fresh(spec_of(folder)).identity == before
    assert len(hashed) == 2


def test_a_fresh_file_is_hashed_each_time(folder, hashed, monkeypatch):
    monkeypatch.setattr(stamps, "_SETTLED", 3600.0)
    assert fresh(spec_of(folder)).identity == fresh(spec_of(folder)).identity
    assert len(hashed) == 2


def test_two_names_of_one_model_have_one_identity(folder, hashed):
    link = folder.parent / "link"
    link.symlink_to(folder)
    one, other = fresh(spec_of(folder)).identity, fresh(spec_of(link)).identity
    assert (one.path, other.path) == (str(folder), str(link))
    assert replace(one, path="") == replace(other, path="")
    assert len(hashed) == 1


def test_the_type_is_part_of_the_key(folder, hashed):
    found = {dtype: fresh(spec_of(folder, dtype=dtype)).identity for dtype in ("auto", "float32", "bfloat16")}
    assert found["auto"] == found["float32"]
    assert found["bfloat16"].dtype == "bfloat16"
    assert found["bfloat16"] == identify(load_model(spec_of(folder, dtype="bfloat16")), str(folder))
    assert len(hashed) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"answer": {}}'])
def test_a_damaged_identity_is_found_anew(folder, text):
    want = fresh(spec_of(folder)).identity
    kept = opening_cache("identities")
    kept.write_text(text)
    assert fresh(spec_of(folder)).identity == want
    assert json.loads(kept.read_text())["answer"]["weights"] == want.weights


def opening_cache(kind):
    from tokenq.cache import cache_folder

    folder = cache_folder()
    assert folder is not None
    (file,) = (folder / kind).glob("*.json")
    return file


def test_a_wrong_identity_is_found_by_the_check_and_said(folder):
    want = fresh(spec_of(folder)).identity
    kept = opening_cache("identities")
    entry = json.loads(kept.read_text())
    entry["answer"]["weights"] = "0" * 64
    entry["uses"] = 10_000
    kept.write_text(json.dumps(entry))
    said = []
    assert fresh(spec_of(folder), say=said.append).identity == want
    assert [f"weights {'0' * 64} → {want.weights}" in line for line in said] == [True]


def adapter_on(folder):
    torch.manual_seed(0)
    model = add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    model.peft_config["default"].base_model_name_or_path = str(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


def test_an_adapter_on_top_is_kept_with_its_base(folder, hashed):
    spec = spec_of(folder, adapter=str(adapter_on(folder)))
    live = load_model(spec)
    for _ in range(2):
        opened = fresh(spec)
        assert replace(opened.identity, path="") == identify(live, "")
        assert replace(opened.base, path="") == identify(live, "", adapter="off")
    assert len(hashed) == 2
    assert replace(fresh(spec_of(folder)).identity, path="") == replace(opened.base, path="")
    change_weights(folder)
    changed = fresh(spec)
    assert changed.base.weights != opened.base.weights
    assert changed.identity.weights != opened.identity.weights


def test_a_merged_adapter_is_its_files_and_those_of_its_base(folder, hashed):
    spec = spec_of(adapter_on(folder))
    one, other = fresh(spec).identity, fresh(spec).identity
    assert one == other == identify(load_model(spec), spec.path)
    assert len(hashed) == 1
    change_weights(folder)
    assert fresh(spec).identity.weights != one.weights


def test_weights_of_a_run_are_known_without_loading(folder, monkeypatch):
    want = identify(load_model(spec_of(folder)), "x").weights
    assert weights_of(spec_of(folder)) == want
    monkeypatch.setattr(opening, "load_model", lambda *_, **__: pytest.fail("it was loaded"))
    assert weights_of(spec_of(folder)) == want


def test_a_proof_is_kept_for_the_architecture_and_not_for_the_weights(proved):
    one = proven(tiny_model("llama"))
    changed = tiny_model("llama")
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.01)
    two = proven(changed)
    assert len(proved) == 1
    assert one.way == two.way == "segments"
    groups = random_groups()
    with torch.no_grad():
        got = two(pack(groups)).logps
        assert torch.allclose(got, own_logps(two.release(), groups), atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        lambda: proven(tiny_model("qwen3")),
        lambda: proven(changed_config("rms_norm_eps", 1e-3)),
        lambda: proven(changed_config("rope_theta", 5e5)),
        lambda: proven(tiny_model("llama"), "plain"),
        lambda: proven(tiny_model("llama", dtype=torch.float64)),
        lambda: proven(add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")),
    ],
    ids=["architecture", "number", "rope", "choice", "type", "adapter"],
)
def test_anything_else_is_proven_anew(proved, other):
    proven(tiny_model("llama"))
    other()
    assert len(proved) == 2
    other()
    assert len(proved) == 2


def changed_config(name, value):
    model = tiny_model("llama")
    setattr(model.config, name, value)
    return model


def test_other_rows_or_another_version_of_the_proof_are_proven_anew(proved, monkeypatch):
    proven(tiny_model("llama"))
    monkeypatch.setattr(proof_cache, "sources", lambda *_: "changed")
    proven(tiny_model("llama"))
    assert len(proved) == 2
    rows = proof_cache.probe_groups
    monkeypatch.setattr(proof_cache, "probe_groups", lambda *a: rows(*a)[:1])
    proven(tiny_model("llama"))
    assert len(proved) == 3


def test_an_exact_way_that_is_not_is_found_by_the_check_and_said(proved):
    """ALiBi does not share prompts; a kept answer that says otherwise lives until the next check."""
    right = proven(tiny_model("bloom")).way
    kept = opening_cache("proofs")
    entry = json.loads(kept.read_text())
    entry["answer"] = {"way": "segments", "limit": None, "steps": True, "warnings": []}
    kept.write_text(json.dumps(entry))
    said = []
    assert proven(tiny_model("bloom"), say=said.append).way == "segments"
    kept.write_text(json.dumps(entry | {"uses": 10_000}))
    assert proven(tiny_model("bloom"), say=said.append).way == right != "segments"
    assert any(f"way segments → {right}" in line for line in said)


def test_limit_and_steps_of_a_way_are_kept_with_it():
    for family in ("llama", "mistral", "bloom"):
        one, two = proven(tiny_model(family)), proven(tiny_model(family))
        assert (two.way, two.limit, two.steps) == (one.way, one.limit, one.steps)


def test_what_could_not_be_done_is_said_again(proved):
    says = []
    for _ in range(2):
        said = []
        proven(tiny_model("bloom"), say=said.append)
        says.append(said)
    assert len(proved) == 1
    assert says[0] == says[1] != []


def test_broken_weights_are_put_to_the_proof_each_time(folder):
    fresh(spec_of(folder))
    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for _ in range(2):
        with pytest.raises(UserError, match="No way of batching"):
            fresh(spec_of(folder))


def test_float16_is_proven_each_time(proved):
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proof_cache, "cached", None)  # must not be asked
            proven(tiny_model("llama", dtype=torch.float16))
    assert len(proved) == 2


def test_readers_of_one_model_share_it_until_somebody_changes_it(folder):
    one = open_model(spec_of(folder))
    assert open_model(spec_of(folder)).lm is one.lm
    assert open_model(spec_of(folder, dtype="float32")).lm is one.lm
    assert open_model(spec_of(folder), "plain").lm is not one.lm
    with torch.no_grad():
        next(one.lm.model.parameters()).add_(1)
    again = open_model(spec_of(folder))
    assert again.lm is not one.lm
    assert identify(again.lm.model, str(folder)) == again.identity


def test_a_model_that_nobody_holds_is_forgotten(folder):
    opened = open_model(spec_of(folder))
    (found, _) = next(iter(opening._open.values()))
    assert found() is opened.lm
    del opened
    assert found() is None


def test_weights_that_are_replaced_while_they_are_read_are_refused(folder):
    def load(spec):
        model = load_model(spec)
        change_weights(folder)
        return model

    with pytest.raises(UserError, match=r"model\.safetensors was replaced or written to while it was being read"):
        fresh(spec_of(folder), load=load)


def test_one_tokenizer_for_all_folders_that_hold_the_same(folder, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    one = open_tokenizer(spec_of(folder))
    assert open_tokenizer(spec_of(tmp_path / "other")) is one
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace("\n", " \n", 1) + " ")
    assert open_tokenizer(spec_of(tmp_path / "other")) is not one
