"""The settings of credit: what a method brings, what replaces it, and what is refused in words."""

import re

import pytest

from tokenq.errors import UserError
from tokenq.jobs.rollout.settings import filled_in, loss_of, refuse_loss
from tokenq.rollout.advantages import ESTIMATORS, FORMS
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import CREDITS

GIVEN = {"model": "m", "prompts": ["p"], "output": "o", "answer": "last_number", "gold": "answer", "samples": 8}


def config(**changes):
    return OnlineConfig(**GIVEN | changes)


def filled(**changes):
    found, _ = filled_in(config(**changes))
    return found


def test_every_row_has_its_estimator_and_its_form():
    assert {row.estimator for row in CREDITS.values()} == ESTIMATORS.keys()
    assert {row.form for row in CREDITS.values()} <= FORMS.keys()


def test_published_settings():
    ppo, grpo, dapo = (filled(method=name) for name in ("ppo", "grpo", "dapo"))
    assert (ppo.gamma, ppo.lam, ppo.kl, ppo.whiten_advantages) == (1.0, 0.95, "reward", True)
    assert (grpo.loss, grpo.scale_rewards) == ("grpo+0.04*kl_k3", "group")
    assert (dapo.kl, dapo.beta, dapo.scale_rewards) == ("none", None, "group")
    assert filled(method="dr_grpo", max_new_tokens=96).loss_options == {"length": "96"}


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ({"method": "ppo"}, "ppo+0.5*value"),
        ({"method": "ppo", "credit": "group"}, "ppo"),
        ({"method": "ppo", "kl": "loss", "beta": 0.2}, "ppo+0.2*kl_k2+0.5*value"),
        ({"method": "grpo", "credit": "gae"}, "grpo+0.04*kl_k3+0.5*value"),
        ({"method": "grpo", "kl": "none"}, "grpo"),
        ({"method": "grpo", "loss": "dapo+0.1*kl_k2"}, "dapo+0.1*kl_k2"),
        ({"method": "dapo", "kl": "loss", "beta": 0.01, "kl_estimator": "k3"}, "dapo+0.01*kl_k3"),
    ],
)
def test_a_loss_gets_the_terms_that_its_settings_ask_for(changes, loss):
    assert filled(**changes).loss == loss


def test_what_a_method_says_of_token_rewards_goes_with_its_own_credit():
    given = {"method": "rto", "credit_run": "dpo"}
    assert (filled(**given).token_rewards, filled(**given).token_reward_weight) == ("implicit", 0.5)
    other = filled(method="rto", credit="group")
    assert (other.token_rewards, other.token_reward_form) == ("none", "auto")
    baseline = filled(method="grpo", credit="implicit", credit_run="dpo")
    assert (baseline.token_rewards, baseline.token_reward_form, baseline.scale_rewards) == (
        "implicit",
        "baseline",
        "none",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"credit": "group"}, "--credit is given, and dpo learns from pairs"),
        ({"gamma": 0.9}, "--gamma is given, and dpo learns from pairs"),
        ({"truncated": "mask"}, "--truncated mask is given, and dpo learns from pairs"),
        ({"method": "grpo", "pairs": "all"}, "--pairs is given, and grpo learns from advantages"),
        ({"method": "grpo", "flip_labels": 0.1}, "--flip-labels is given"),
        ({"method": "grpo", "replay": 0.5}, "--replay is given"),
        ({"method": "grpo", "data": ["pairs.jsonl"]}, "--data is given"),
        ({"method": "grpo", "samples": 1}, "--samples 1: credit group measures"),
        ({"method": "rloo", "samples": 1}, "--samples 1: credit leave_one_out measures"),
        ({"method": "grpo", "top_p": 0.9}, "--top-p 0.9 never writes some of the tokens.*--allow-cut-support"),
        ({"method": "ppo", "top_k": 200}, "--top-k 200 never writes"),
        ({"method": "ppo", "credit": "implicit"}, "read off a pair of models, and none is named.*--credit-run"),
        ({"method": "rto"}, "read off a pair of models"),
        ({"method": "grpo", "token_rewards": "reward_model"}, "needs a reward model, and none is named"),
        ({"method": "grpo", "filter_accuracy": (0.2,)}, "--filter-accuracy 0.2: it takes a low and a high number"),
        ({"method": "grpo", "filter_accuracy": (0.8, 0.2)}, "--filter-accuracy 0.8 0.2: it takes a low"),
        ({"method": "grpo", "filter_accuracy": (0, 1.5)}, "--filter-accuracy is 1.5.*from 0 to 1"),
        ({"method": "ppo", "filter_accuracy": (0, 1), "samples": 1}, "the mean of one outcome is 0 or 1"),
        ({"filter_accuracy": (0, 1)}, "--filter-accuracy is given, and dpo learns from pairs"),
        ({"method": "grpo", "normalise_values": True}, "--normalise-values is given, and nothing reads it"),
        ({"method": "grpo", "lam": 0.9}, "--lam is given, and nothing reads it with credit group"),
        ({"method": "grpo", "gamma": 0.9}, "--gamma is given, and nothing reads it"),
        ({"method": "grpo", "credit_run": "dpo"}, "--credit-run is given, and nothing reads it"),
        ({"method": "grpo", "importance_cap": 2.0}, "--importance-cap is given, and nothing reads it"),
        ({"method": "ppo", "scale_rewards": "group"}, "--scale-rewards group goes with --credit group"),
        ({"method": "grpo", "truncated": "bootstrap"}, "no value network is trained"),
        ({"method": "dapo", "beta": 0.1}, "weighs the KL penalty, and there is none"),
        ({"method": "dapo", "kl": "reward"}, "--kl reward has no weight"),
        ({"method": "dapo", "reference_sync_steps": 1}, "a reference that nothing reads"),
        ({"method": "dpo", "reference_sync_steps": 1}, "a reference of rounds moves with them"),
        ({"method": "ppo", "reference_sync_steps": 1, "reference_moves": "round"}, "are both given"),
        ({"method": "ppo", "lam": 1.5}, "--lam is 1.5"),
        ({"method": "ppo", "reward_clip": 0.0}, "--reward-clip is 0.0"),
        (
            {"method": "ppo", "token_rewards": "implicit", "credit_run": "dpo", "token_reward_form": "baseline"},
            "takes the place of the baseline of gae",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, said):
    with pytest.raises(UserError) as problem:
        config(**changes).check()
    assert re.search(said, f"{problem.value.message} {problem.value.hint}", re.DOTALL)


def test_a_support_may_be_cut_if_one_insists():
    config(method="ppo", top_k=200, allow_cut_support=True).check()
    config(method="dpo", top_p=0.9).check()  # pairs need no support


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "grpo", "loss": "dpo"}, "does not learn from advantages"),
        ({"method": "dpo", "loss": "grpo"}, "does not learn from pairs"),
        ({"method": "ppo", "loss": "ppo"}, "reads a value network, and loss 'ppo' trains none"),
        ({"method": "grpo", "loss": "grpo+0.5*value"}, "reads no value network, and loss"),
        ({"method": "ppo", "loss": "ppo+0.1*kl_k2+0.5*value"}, "puts another into the rewards"),
    ],
)
def test_a_loss_that_does_not_go_with_the_credit_is_refused(changes, said):
    def resolved():
        found, row = filled_in(config(**changes))
        refuse_loss(found, loss_of(found, row), row)

    with pytest.raises(UserError, match=said):
        resolved()
