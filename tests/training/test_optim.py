"""Optimisers and schedules as functions of the configuration."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from small_runs import small_config, small_policy
from torch import nn

from tokenq.core.losses import find_sum
from tokenq.errors import UserError
from tokenq.training.defaults import with_defaults
from tokenq.training.optim import learning_rate, make_optimizer, tell_deepspeed


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]),
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("warmup", [{"warmup_steps": 2}, {"warmup_ratio": 1 / 3}, {"warmup_ratio": 0.25}])
def test_schedules(tmp_path, schedule, want, warmup):
    """Two warm-up steps of six (a quarter is one and a half, rounded up), peak 1: the fall begins at step 2, and would
    reach 0 at step 6: cos(π/4) = √½.
    """
    config = small_config(tmp_path, schedule=schedule, learning_rate=1.0, **warmup)
    assert [learning_rate(config, step, 6) for step in range(6)] == pytest.approx(want)


def test_schedules_without_warm_up(tmp_path):
    rates = {
        schedule: [learning_rate(small_config(tmp_path, schedule=schedule, learning_rate=2.0), s, 4) for s in range(4)]
        for schedule in ("linear", "cosine", "constant")
    }
    assert rates["linear"] == [2.0, 1.5, 1.0, 0.5]
    assert rates["cosine"] == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])
    assert rates["constant"] == [2.0] * 4


def test_a_warm_up_longer_than_the_run(tmp_path):
    config = small_config(tmp_path, learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(config, step, 3) for step in range(3)] == pytest.approx([0, 0.1, 0.2])


def test_beyond_the_end_the_rate_is_never_negative(tmp_path):
    assert learning_rate(small_config(tmp_path, learning_rate=1.0), 9, 6) == 0
    assert learning_rate(small_config(tmp_path, learning_rate=1.0, schedule="cosine"), 9, 6) == pytest.approx(0)


def test_a_learning_rate_of_what_is_not_trained_is_refused(tmp_path):
    for settings, said in (
        (
            {"value_learning_rate": 1e-3},
            "--value-learning-rate is given, and loss 'implicit_prm' trains no value network",
        ),
        ({"prm_learning_rate": 1e-3}, "trains no process reward model beside the policy"),  # it is the policy itself
    ):
        config = small_config(tmp_path, loss="implicit_prm", **settings)
        with pytest.raises(UserError, match=said):
            with_defaults(config, find_sum("implicit_prm"))
    config = small_config(tmp_path, loss="ppo+implicit_prm", prm_learning_rate=1e-3)
    assert with_defaults(config, find_sum("ppo+implicit_prm")) == config


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("rmsprop", torch.optim.RMSprop), ("sgd", torch.optim.SGD)]
)
def test_matrices_decay_and_biases_and_norms_do_not(tmp_path, name, kind):
    policy = small_policy()
    optimizer, _ = make_optimizer(policy, small_config(tmp_path, optimizer=name, weight_decay=0.3))
    assert type(optimizer) is kind
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(policy.parameters()))
    for weight in policy.parameters():
        assert decay[id(weight)] == (0.3 if weight.ndim >= 2 else 0.0)


def test_adamw_takes_its_constants(tmp_path):
    settings = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "learning_rate": 0.25}
    (group, _) = make_optimizer(small_policy(), small_config(tmp_path, **settings))[0].param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.95), 1e-6, 0.25)


def test_one_step_of_adamw_by_hand(tmp_path):
    """The first step of Adam is lr · g / (|g| + ε), whatever g is; before it the matrix shrinks by lr · decay."""
    layer = nn.Linear(1, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(1.0)
    optimizer, _ = make_optimizer(layer, small_config(tmp_path, learning_rate=0.1, weight_decay=0.5))
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 7.0).double(), torch.full((1,), -3.0).double()
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2.0 * (1 - 0.05) - 0.1, abs=1e-8)
    assert layer.bias.item() == pytest.approx(1.0 + 0.1, abs=1e-8)


def test_only_what_is_trained_is_given_to_the_optimiser(tmp_path):
    policy = small_policy(lora=True)
    optimizer, _ = make_optimizer(policy, small_config(tmp_path))
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for name, p in policy.named_parameters() if "lora_" in name}


class TestDeepSpeed:
    def test_it_is_told_how_the_loop_goes_about(self, tmp_path):
        given = {"zero_optimization": {"stage": 2}, "gradient_clipping": "auto", "gradient_accumulation_steps": 8}
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=given))
        accelerator = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state)
        tell_deepspeed(accelerator, small_config(tmp_path, max_grad_norm=0.7))
        assert given == {
            "zero_optimization": {"stage": 2},
            "gradient_clipping": 0.7,
            "gradient_accumulation_steps": 1,
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
        }

    def test_nothing_happens_without_it(self, tmp_path):
        accelerator = SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)
        tell_deepspeed(accelerator, small_config(tmp_path))
        assert vars(accelerator) == {"distributed_type": DistributedType.MULTI_GPU}
