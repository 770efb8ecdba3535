"""The exported policy, read by transformers and peft alone: the numbers of the trained one."""

import pytest
import torch
from builders import own_logps, random_groups
from peft import PeftModel
from safetensors import safe_open
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenq.core.packing import pack
from tokenq.models.export import export_policy
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.load import add_lora

# accelerate and transformers tell that tied weights are written once.
pytestmark = pytest.mark.filterwarnings("ignore:.*shared tensor")

GROUPS = random_groups()


def trained(model):
    """Return a policy after one step of plain gradient descent, as training leaves it."""
    lm = PackedLM(model.train(), "segments")
    lm.accumulate_in_place()
    lm(pack(GROUPS)).logps.mean().backward()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.grad is not None:
                parameter += 0.1 * parameter.grad
    return lm


def numbers(model):
    """Return the log-probs of a model, or of a trained policy with the attention that it came with."""
    model = model.release() if isinstance(model, PackedLM) else model
    with torch.no_grad():
        return own_logps(model.eval(), GROUPS)


def export(lm, folder, **more):
    export_policy(lm, tiny_tokenizer(), folder, "card", **more)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
def test_a_full_policy_loads_in_transformers_with_the_same_numbers(family, tmp_path):
    lm = trained(tiny_model(family))
    export(lm, tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    with torch.no_grad():  # the policy is an ordinary model again
        assert torch.equal(numbers(loaded), own_logps(lm.model.eval(), GROUPS))
    assert (numbers(loaded) - numbers(tiny_model(family))).abs().max() > 0.01
    assert loaded.dtype == torch.float32
    assert loaded.config._attn_implementation == "sdpa"
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "policy")("the cat").input_ids == tiny_tokenizer()("the cat").input_ids
    )
    assert (tmp_path / "policy" / "README.md").read_text() == "card"
    assert not list((tmp_path / "policy").glob("*.bin"))


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("gpt2", True), ("gemma3", True)])
def test_tied_weights_are_written_once_and_stay_tied(family, tied, tmp_path):
    export(trained(tiny_model(family)), tmp_path / "policy")
    with safe_open(tmp_path / "policy" / "model.safetensors", "pt") as file:
        big = [name for name in file.keys() if 288 in file.get_slice(name).get_shape()]  # noqa: SIM118 (no dict)
    assert len(big) == (1 if tied else 2)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied


def test_an_adapter_loads_in_peft_on_its_base(tmp_path):
    base = tmp_path / "base"
    tiny_model("llama").save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    lm = trained(add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear"))
    export(lm, tmp_path / "policy")
    assert not (tmp_path / "policy" / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "policy")
    assert torch.equal(numbers(loaded), numbers(lm))
    assert loaded.peft_config["default"].base_model_name_or_path == str(base)
    assert (numbers(loaded) - numbers(tiny_model("llama"))).abs().max() > 0.01


def test_an_adapter_can_be_merged(tmp_path):
    torch.manual_seed(0)
    lm = trained(add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets="all-linear"))
    want = numbers(lm)
    export(lm, tmp_path / "policy", form="merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(numbers(loaded), want, rtol=0, atol=1e-4)
    assert not (tmp_path / "policy" / "adapter_config.json").exists()


def test_gathered_weights_take_the_place_of_the_models_own(tmp_path):
    """As after training over several processes: the state comes under the names of the `PackedLM`."""
    lm = trained(tiny_model("llama"))
    state = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    assert all(name.startswith("model.") for name in state)
    empty = PackedLM(tiny_model("llama", seed=9), "segments")
    export(empty, tmp_path / "policy", state=state)
    assert torch.equal(numbers(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")), numbers(lm))


def test_half_precision_stays(tmp_path):
    tiny_model("llama", dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    lm = trained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    export(lm, tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(numbers(loaded), numbers(lm))


def test_a_failed_export_leaves_the_older_one(tmp_path):
    lm = trained(tiny_model("llama"))
    export(lm, tmp_path / "policy")
    before = (tmp_path / "policy" / "model.safetensors").read_bytes()
    broken = tiny_tokenizer()
    broken.save_pretrained = None
    with pytest.raises(TypeError):
        export_policy(lm, broken, tmp_path / "policy", "other card")
    assert (tmp_path / "policy" / "README.md").read_text() == "card"
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
