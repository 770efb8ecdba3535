"""Float32 copies of weights in half precision: small updates add up, and a resumed run has the same copies."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from small_runs import small_config, small_policy, train_small
from torch import nn
from transformers import AutoModelForCausalLM

from tokenq.errors import UserError
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.training.optim import make_optimizer, masters_of, refuse_sharded_masters
from tokenq.training.precision import precision_of


def one_weight(value=1.0, dtype=torch.bfloat16):
    layer = nn.Linear(1, 1, bias=False, dtype=dtype)
    layer.weight.data.fill_(value)
    return layer


def descend(layer, optimizer, steps):
    """Take steps along a gradient of 1 and return the weight after each."""
    found = []
    for _ in range(steps):
        layer(torch.ones(1, 1, dtype=layer.weight.dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(layer.weight.item())
    return found


def test_updates_below_half_a_spacing_add_up(tmp_path):
    """Below 1 the next number of bfloat16 is 1 − 2⁻⁸ = 0.99609375; 1 − 0.001 and 1 − 0.0015 are nearer to 1, and
    1 − 0.002 and 1 − 0.003 are nearer to it. Without a copy no step of 0.001 would ever get there.
    """
    layer = one_weight()
    optimizer, ((_, master),) = make_optimizer(layer, small_config(tmp_path, optimizer="sgd", learning_rate=1e-3))
    assert descend(layer, optimizer, 3) == [1.0, 0.99609375, 0.99609375]
    assert master.item() == pytest.approx(0.997, abs=1e-7)
    plain = one_weight()
    assert descend(plain, torch.optim.SGD(plain.parameters(), lr=1e-3), 50) == [1.0] * 50


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd"])
def test_the_copy_takes_the_steps_of_a_float32_weight(tmp_path, name):
    """Gradients of this layer are 1 in both types, so the copies must agree to the bit."""
    config = small_config(tmp_path, optimizer=name, learning_rate=1e-3, weight_decay=0.1)
    low, full = one_weight(), one_weight(dtype=torch.float32)
    optimizer, ((_, master),) = make_optimizer(low, config)
    descend(low, optimizer, 5)
    want = descend(full, make_optimizer(full, config)[0], 5)[-1]
    assert master.item() == want
    assert low.weight.item() == torch.tensor(want).bfloat16().item()


def test_gradients_do_not_pile_up(tmp_path):
    """The optimiser clears what it took: a second step along a gradient of 1 is as long as the first."""
    layer = one_weight(0.0)
    optimizer, _ = make_optimizer(layer, small_config(tmp_path, optimizer="sgd", learning_rate=0.5))
    assert descend(layer, optimizer, 3) == [-0.5, -1.0, -1.5]


def test_weights_in_float32_and_float64_need_no_copy():
    for dtype in (torch.float32, torch.float64):
        assert masters_of(one_weight(dtype=dtype).parameters()) == []
    frozen = one_weight().requires_grad_(requires_grad=False)
    assert masters_of(frozen.parameters()) == []


def stored(folder):
    """Return the trained weights in a checkpoint, as transformers names them, or peft."""
    if (folder / "adapter_model.safetensors").exists():
        return load_file(folder / "adapter_model.safetensors")
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").named_parameters())


@pytest.mark.integration
@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
def test_a_resumed_run_has_the_copies_of_one_that_was_not_stopped(tmp_path, lora):
    def policy():
        made = small_policy(lora, dtype=torch.bfloat16)
        return made

    options = {"max_steps": 4, "save_steps": 2, "start_tolerance": 0.3, "learning_rate": 1e-4}
    whole, _ = train_small(tmp_path / "whole", policy=policy(), **options)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "parts", policy=policy(), stop=("train", 3), **options)
    parts, _ = train_small(tmp_path / "parts", policy=policy(), resume=True, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value), name
    copies = [stored(tmp_path / run / "checkpoints" / "step-4") for run in ("whole", "parts")]
    assert copies[0].keys() == copies[1].keys()
    assert all(torch.equal(copies[0][name], copies[1][name]) for name in copies[0])
    exported = {name.removeprefix("model.").replace(".default", ""): p for name, p in whole.named_parameters()}
    assert all(torch.equal(exported[name], copies[0][name]) for name in copies[0])
    assert any(not torch.equal(copy, copy.bfloat16().float()) for copy in copies[0].values())  # more than weights say


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_weights_in_shards_cannot_have_one(kind):
    sharded = SimpleNamespace(distributed_type=DistributedType[kind])
    with pytest.raises(UserError, match=r"bfloat16 are trained with a float32 copy(.|\n)*--mixed-precision bf16"):
        refuse_sharded_masters(sharded, one_weight())
    refuse_sharded_masters(sharded, one_weight(dtype=torch.float32))
    refuse_sharded_masters(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU), one_weight())


def test_a_value_network_in_half_precision_has_copies_too(tmp_path):
    """All but its head, whose number is computed in float32."""
    both = PolicyNetworks(small_policy(dtype=torch.bfloat16), ["values"])
    assert both.values.head.weight.dtype == torch.float32
    optimizer, _ = make_optimizer(both, small_config(tmp_path), both.beside())
    updated = [p for group in optimizer.param_groups for p in group["params"]]
    assert {p.dtype for p in updated} == {torch.float32}
    assert len(updated) == len(list(both.parameters()))


def test_memory_by_hand(tmp_path):
    """Ten weights. float32 and AdamW: 4 (weight) + 4 (gradient) + 8 (moments) = 16 bytes each; bfloat16: 2 + 4 (copy)
    + 4 (gradient of the copy) + 8 = 18; SGD in float32: 8. A frozen layer of five in bfloat16 adds ten bytes.
    """

    def layer(dtype, width=10):
        return nn.Linear(width, 1, bias=False, dtype=dtype)

    def said(model, optimizer="adamw", **more):
        return precision_of(model, small_config(tmp_path, optimizer=optimizer, **more))

    full, low = said(layer(torch.float32)), said(layer(torch.bfloat16))
    assert full.memory_gb == pytest.approx(160e-9)
    assert low.memory_gb == pytest.approx(180e-9)
    assert said(layer(torch.float32), "sgd").memory_gb == pytest.approx(80e-9)
    assert (full.weights, full.master, full.compute, full.optimizer_state) == ("float32", None, "float32", "float32")
    assert (low.weights, low.master, low.compute) == ("bfloat16", "float32", "bfloat16")
    adapted = nn.ModuleList([layer(torch.float32), layer(torch.bfloat16, 5).requires_grad_(requires_grad=False)])
    found = said(adapted, mixed_precision="bf16")
    assert found.memory_gb == pytest.approx(170e-9)
    assert (found.weights, found.frozen, found.compute, found.trained) == ("float32", "bfloat16", "bfloat16", 10)
    assert "10 weights trained in float32, the rest frozen in bfloat16" in found.line("adamw")
