"""Credit of a round by hand: two prompts of two responses, of two tokens and of one."""

import math
from types import SimpleNamespace

import pytest
import torch

from tokenq.core.credit import by_turn
from tokenq.rollout.advantages import JudgedTokens, credited, without_signal

REWARDS = torch.tensor([1.0, 0.0, 3.0, 3.0], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 1, 1])
MASK = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
LOGPS = torch.tensor([[-1.0, -2.0], [-1.0, 0.0], [-0.5, -0.5], [-1.0, -1.0]], dtype=torch.float64)
REF = torch.tensor(
    [[-1.5, -2.0], [-2.0, 0.0], [-0.5, -0.5], [-1.0, -1.0]], dtype=torch.float64
)  # d: ½ 0 | 1 | 0 0 | 0 0
DENSE = torch.tensor([[0.5, 0.25], [-1.0, 0.0], [2.0, -1.0], [0.0, 1.0]], dtype=torch.float64)
VALUES = torch.tensor([[0.5, 0.5], [0.25, 0.0], [1.0, 2.0], [3.0, 3.0]], dtype=torch.float64)

OPTIONS = {"credit": "returns", "token_rewards": "none", "token_reward_form": "auto", "token_reward_weight": None}
OPTIONS |= {"gamma": 1.0, "lam": 1.0, "scale_rewards": "none", "reward_clip": None, "whiten_advantages": False}
OPTIONS |= {"kl": "none", "kl_estimator": "k1", "importance_correction": "none", "importance_cap": None}
OPTIONS |= {"credit_span": "token"}


def judged(**more):
    return JudgedTokens(REWARDS, GROUPS, MASK, LOGPS, **more)


PLAIN = judged()


def found(beta=0.0, judged=PLAIN, **options):
    return credited(judged, SimpleNamespace(**OPTIONS | options), beta)


def advantages(**given):
    return found(**given).advantages.tolist()


def test_returns_are_what_follows():
    assert advantages() == [[1, 1], [0, 0], [3, 3], [3, 3]]
    assert advantages(gamma=0.5) == [[0.5, 1], [0, 0], [1.5, 3], [1.5, 3]]


def test_leave_one_out_and_the_group():
    assert advantages(credit="leave_one_out") == [[1, 1], [-1, 0], [0, 0], [0, 0]]
    assert advantages(credit="group") == [[0.5, 0.5], [-0.5, 0], [0, 0], [0, 0]]
    by_spread = 0.5 / (math.sqrt(0.5) + 1e-4)  # the deviation of 1 and 0, of a sample of two
    whole = advantages(credit="group", scale_rewards="group")
    assert whole[0] == pytest.approx([by_spread] * 2)
    assert whole[2:] == [[0, 0], [0, 0]]  # equal rewards teach nothing, and are no NaN


def test_rewards_are_scaled_by_the_round_and_clipped():
    spread = REWARDS.std().item()  # √(1.6875 · 4/3) = 1.5
    assert spread == pytest.approx(1.5)
    assert advantages(scale_rewards="batch")[2] == pytest.approx([2.0, 2.0])
    clipped = found(reward_clip=2.0)
    assert clipped.advantages.tolist()[2] == [2, 2]
    assert clipped.numbers["clipped_rewards"] == 0.5


def test_a_kl_penalty_stands_in_the_rewards_of_tokens():
    """β = 0.2: the first response pays 0.1 for its first token, the second 0.2 for its only one."""
    row = judged(ref_logps=REF)
    given = advantages(judged=row, beta=0.2, kl="reward")
    assert given[0] == pytest.approx([0.9, 1.0])
    assert given[1] == pytest.approx([-0.2, 0.0])
    whole = advantages(judged=row, beta=0.2, kl="reward", credit="leave_one_out")
    assert whole[0] == pytest.approx([1.1, 1.1])  # 0.9 − (−0.2): without rewards of tokens a response is one action
    numbers = found(judged=row, beta=0.2, kl="reward").numbers
    assert numbers["kl_k1"] == pytest.approx(1.5 / 7)
    assert numbers["kl_k2"] == pytest.approx((0.125 + 0.5) / 7)
    assert numbers["kl_k3"] == pytest.approx((math.exp(-0.5) - 0.5 + math.exp(-1)) / 7)


DENSELY = {"token_rewards": "implicit", "token_reward_weight": 2.0}


def test_rewards_of_tokens_add_to_the_reward_or_shape_it():
    row = judged(dense=DENSE)
    added = advantages(judged=row, token_reward_form="scaled", **DENSELY)
    assert added == [[2.5, 1.5], [-2, 0], [5, 1], [5, 5]]  # R + 2 Σ dense to go
    shaped = advantages(judged=row, token_reward_form="potential", **DENSELY)
    assert shaped == [[1, 0], [0, 0], [3, -1], [3, 3]]  # R − Φ(s_t), Φ(s_2) = 1, 4 and 0
    against = advantages(judged=row, token_reward_form="scaled", credit="leave_one_out", **DENSELY)
    assert against == [[4.5, 3.5], [-4.5, 0], [0, -4], [0, 0]]  # to go, less the whole of the other


def test_a_group_scales_what_is_to_go_as_well():
    row = judged(dense=DENSE)
    plain = torch.tensor(advantages(judged=row, token_reward_form="scaled", credit="group", **DENSELY))
    by_group = {"scale_rewards": "group", "token_reward_form": "scaled", "credit": "group"}
    shrunk = torch.tensor(advantages(judged=row, **by_group, **DENSELY))
    ratios = (shrunk / plain)[:2][MASK[:2]]
    assert ratios.tolist() == pytest.approx([1 / (math.sqrt(4.5**2 / 2) + 1e-4)] * 3)


def test_the_values_of_a_pair_are_a_baseline():
    """R − Σ dense is ¼, 1, 2 and 2: V*(x) of each from its neighbour, and then what came before is added.

    The policy falls short of it by ¾, −1, 1 and 1 at the first token; the mean over the other three is taken off.
    """
    row = judged(dense=DENSE)
    given = advantages(judged=row, token_reward_form="baseline", token_rewards="implicit", token_reward_weight=1.0)
    assert given[0] == pytest.approx([1 - 1 - 1 / 3, 1 - 1 - 1 / 3 - 0.5])
    assert given[1] == pytest.approx([0 - 0.25 - 2.75 / 3, 0])
    assert given[2:] == [[0.75, -1.25], [0.75, 0.75]]


def test_the_values_of_a_pair_are_of_the_reward_alone():
    """The KL penalty is in what follows a token (0.95, 1 | -0.1 | 3, 3 | 3, 3), and in no R - Σ dense."""
    row, densely = judged(dense=DENSE, ref_logps=REF), {"token_rewards": "implicit", "token_reward_weight": 1.0}
    given = advantages(judged=row, token_reward_form="baseline", kl="reward", beta=0.1, **densely)
    # short of V* by 0.7, -1.1, 1, 1: the mean of the others is 0.3, 0.9, 0.2, 0.2
    by_hand = [[0.95 - 1.3, 1 - 1.8], [-0.1 - 1.15, 0], [3 - 2.2, 3 - 4.2], [3 - 2.2, 3 - 2.2]]
    assert [number for row in given for number in row] == pytest.approx([number for row in by_hand for number in row])


def test_prime_adds_two_sums():
    row = judged(dense=DENSE)
    given = advantages(judged=row, credit="prime", token_reward_form="scaled", **DENSELY)
    # R − R' + 2 Σ_{s≥t} (dense − mean of the other's): means 0.375, −1, 0.5, 0.5
    assert given == [[1 + 2 * 2.75, 1 + 2 * 1.25], [-1 + 2 * -1.375, 0], [0, -3.0], [0, 1.0]]


def test_gae_against_values_and_what_they_explain():
    row = judged(values=VALUES)
    given = found(judged=row, credit="gae")
    assert given.advantages.tolist() == [[0.5, 0.5], [-0.25, 0], [2, 1], [0, 0]]
    assert given.returns.tolist() == [[1, 1], [0, 0], [3, 3], [3, 3]]
    one = found(judged=row, credit="gae", lam=0.0).advantages.tolist()
    assert one == [[0.0, 0.5], [-0.25, 0], [1, 1], [0, 0]]
    cut = judged(values=VALUES, bootstrap=torch.tensor([0.0, 0.0, 0.0, 2.0], dtype=torch.float64))
    assert found(judged=cut, credit="gae").advantages.tolist()[3] == [2, 2]
    left = torch.tensor([0.5, 0.5, -0.25, 2, 1, 0, 0]).var(correction=0)
    spread = torch.tensor([1.0, 1, 0, 3, 3, 3, 3]).var(correction=0)
    assert given.numbers["explained_variance"] == pytest.approx(1 - (left / spread).item())


def test_advantages_are_whitened_over_all_own_tokens():
    given = found(whiten_advantages=True).advantages[MASK]
    assert given.mean().item() == pytest.approx(0, abs=1e-12)
    assert given.var(correction=0).item() == pytest.approx(1, abs=1e-6)
    still = found(judged=judged()._replace(rewards=torch.ones(4, dtype=torch.float64)), whiten_advantages=True)
    assert not still.advantages.any()


def test_weights_of_another_writer_multiply_advantages():
    """The writer gave the first token e⁻¹ of what the trainer does: a ratio of e, which is cut to 2."""
    writer = LOGPS.clone()
    writer[0, 0] -= 1
    writer[2, 1] += 1
    row = judged(writer_logps=writer)
    given = found(judged=row, importance_correction="token")
    assert given.advantages[0].tolist() == [2, 1]
    assert given.advantages[2].tolist() == pytest.approx([3, 3 / math.e])
    assert given.numbers["writer_gap"] == pytest.approx(2 / 7)
    left_out = found(judged=row, importance_correction="icepop").numbers["importance_left_out"]
    assert left_out == pytest.approx(1 / 7)  # 1/e is below ½


def test_prompts_that_teach_nothing():
    given = found(credit="group").advantages
    assert without_signal(judged(), given, grouped=True) == [False, True]
    assert without_signal(judged(), found().advantages, grouped=False) == [False, False]
    equal = judged()._replace(rewards=torch.ones(4, dtype=torch.float64))
    assert without_signal(equal, torch.ones(4, 2), grouped=False) == [True, True]


EARNED = JudgedTokens(
    torch.tensor([3.0, -1.0], dtype=torch.float64),
    torch.tensor([0, 0]),
    torch.tensor([[True, True, True], [True, True, False]]),
    torch.zeros(2, 3, dtype=torch.float64),
    values=torch.tensor([[0.5, 9.0, 1.0], [0.0, 0.5, 0.0]], dtype=torch.float64),
    turns=torch.tensor([[0, 0, 1], [0, 1, 0]]),
    given=torch.tensor([[0.0, 1.0, 2.0], [0.0, -1.0, 0.0]], dtype=torch.float64),
)
"""Two episodes of one seed: 1 for a turn of two tokens and 2 for one of one; nothing, and then −1."""


def test_rewards_of_turns_stand_where_they_were_given():
    assert advantages(judged=EARNED) == [[3, 3, 2], [-1, -1, 0]]
    more = EARNED._replace(rewards=torch.tensor([5.0, -1.0], dtype=torch.float64))
    assert advantages(judged=more) == [[5, 5, 4], [-1, -1, 0]]  # what a judge adds stands at the end
    spread = math.sqrt(8.0)  # of 3 and −1
    assert advantages(judged=EARNED, scale_rewards="batch")[0] == pytest.approx([3 / spread, 3 / spread, 2 / spread])


def test_a_turn_is_one_action_where_that_is_asked_for():
    assert advantages(judged=EARNED, credit="leave_one_out") == [[4, 4, 4], [-4, -4, 0]]  # an episode is one action
    by_turns = advantages(judged=EARNED, credit="leave_one_out", credit_span="turn")
    assert by_turns == [[4, 4, 3], [-4, -4, 0]]  # to go, less the return of the other
    assert by_turns == by_turn(EARNED.given, EARNED.turns, EARNED.groups, EARNED.mask).tolist()
    group = advantages(judged=EARNED, credit="group", credit_span="turn")
    assert group == [[2, 2, 1], [-2, -2, 0]]  # less the mean of both, 1
    discounted = advantages(judged=EARNED, gamma=0.5, credit_span="turn")
    assert discounted == [[2, 2, 2], [-0.5, -1, 0]]  # 1 + ½ · 2: a turn, and no token, is discounted
    assert advantages(credit_span="turn") == [[1, 1], [0, 0], [3, 3], [3, 3]]  # without an environment: one turn


def test_gae_over_turns():
    """λ = ½; V before turns is ½ and 1 | 0 and ½: errors 1 + 1 − ½ and 2 − 1 | ½ and −1 − ½. The 9 is within a turn."""
    given = found(judged=EARNED, credit="gae", lam=0.5, credit_span="turn")
    assert given.advantages.tolist() == [[2, 2, 1], [-0.25, -1.5, 0]]
    assert given.returns[0].tolist() == [2.5, 2.5, 2]
    assert given.returns[1, :2].tolist() == [-0.25, -1]
