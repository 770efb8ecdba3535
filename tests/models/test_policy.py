"""The references that a policy brings along: a frozen copy, the base below its adapter."""

import pytest
import torch
from builders import own_logps, random_groups
from tiny import tiny_model

from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.models.forward.attention import SEGMENTS
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import frozen_model, no_grad, without_adapter
from tokenq.models.load import add_lora

GROUPS = random_groups()
BATCH = pack(GROUPS)


def adapted(family="llama"):
    model = add_lora(tiny_model(family), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    return model


@pytest.mark.parametrize("way", ["segments", "plain"])
def test_a_frozen_copy_stays_while_the_policy_moves(way):
    lm = PackedLM(tiny_model("gemma3"), way)
    lm.model.train()
    copy = no_grad(frozen_model(lm))
    before = lm(BATCH).logps.detach()
    assert torch.equal(copy(BATCH), before)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.1)
    assert torch.equal(copy(BATCH), before)
    assert (lm(BATCH).logps - before).abs().max() > 0.01
    assert not copy(BATCH).requires_grad
    assert lm.model.training


def test_a_frozen_copy_is_of_the_live_weights():
    """Not of what a path holds: weights changed in memory are what the policy starts from."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    want = own_logps(model, GROUPS)
    torch.testing.assert_close(no_grad(frozen_model(PackedLM(model, "segments")))(BATCH), want, rtol=0, atol=1e-5)


def test_a_copy_of_a_policy_that_accumulates_in_place_adds_to_nothing():
    lm = PackedLM(tiny_model("gpt2"), "segments")
    lm.accumulate_in_place()
    lm(BATCH).logps.sum().backward()
    gradient = lm.lm.get_output_embeddings().weight.grad.clone()
    no_grad(frozen_model(lm))(BATCH)
    assert torch.equal(lm.lm.get_output_embeddings().weight.grad, gradient)


@pytest.mark.parametrize("way", ["segments", "plain"])
def test_with_its_adapter_off_a_policy_is_its_base(way):
    lm = PackedLM(adapted(), way)
    base = PackedLM(tiny_model("llama"), way)
    reference = no_grad(lm, "off")
    with torch.no_grad():
        want = base(BATCH).logps
        on = lm(BATCH).logps
        assert torch.equal(reference(BATCH), want)
        assert torch.equal(lm(BATCH).logps, on)
    assert (on - want).abs().max() > 0.05
    assert not reference(BATCH).requires_grad


def test_the_adapter_learns_on_after_the_reference_was_asked():
    lm = PackedLM(adapted(), "segments")
    no_grad(lm, "off")(BATCH)
    lm(BATCH).logps.sum().backward()
    live = [name for name, p in lm.named_parameters() if p.requires_grad]
    assert live
    assert all(p.grad is not None for name, p in lm.named_parameters() if name in live)


def test_a_policy_without_adapter_has_none_to_switch_off():
    with pytest.raises(UserError, match="no adapter to switch off"):
        no_grad(PackedLM(tiny_model("llama")), "off")
    model = tiny_model("llama")
    with without_adapter(model), torch.no_grad():
        assert torch.equal(own_logps(model, GROUPS), own_logps(tiny_model("llama"), GROUPS))


def test_a_scorer_without_gradients_gives_the_same_numbers():
    lm = PackedLM(tiny_model("llama"), "segments")
    logps = no_grad(lm)(BATCH)
    assert not logps.requires_grad
    assert torch.equal(logps, lm(BATCH).logps.detach())
    assert lm.lm.config._attn_implementation == SEGMENTS
