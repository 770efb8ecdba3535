"""Responses that hold what an environment said: whose tokens count, in files and in numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rollout.test_round_numbers import rollout
from tiny import tiny_model

from tokenq.core.losses import find_sum
from tokenq.core.packing import pack
from tokenq.core.tensors import Outputs
from tokenq.files import JsonLines, write_json_lines
from tokenq.jobs.rollout.sampled import token_logps
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout, TurnSpan, advantage_row, pair_row, read_advantages, read_pairs
from tokenq.rollout.learning import learnt
from tokenq.rollout.summary import round_numbers
from tokenq.training.objective import Objective

OWN = (True, True, False, False, True)
"""Two tokens of the policy, two of the environment, one of the policy."""


def episode(name="a", number=0, tokens=(5, 2, 7, 8, 2), reward=1.0):
    one = rollout(name, number, tokens, reward)
    turns = (TurnSpan(0, 2, 0.25), TurnSpan(4, 5, 0.75))
    return replace(one, own=OWN, logps=(-0.5, -0.5, 0.0, 0.0, -0.5), turns=turns)


def test_a_line_says_whose_tokens_they_are_and_one_without_an_environment_says_nothing(tmp_path):
    plain, one = rollout("a", 0, [5, 2], 1.0), episode()
    assert not {"own", "turns", "part"} & set(plain.to_dict())
    path = tmp_path / "rollouts.jsonl"
    write_json_lines(path, (each.to_dict() for each in (plain, one)))
    rows = JsonLines(path).read()
    assert rows[1]["own"] == list(OWN)
    assert rows[1]["turns"] == [[0, 2, 0.25], [4, 5, 0.75]]
    assert [Rollout.from_dict(row) for row in rows] == [plain, one]


def test_masks_of_pairs_and_of_advantages_come_back_from_their_files(tmp_path):
    other = episode(number=1, tokens=(6, 2, 7, 7, 2), reward=0.0)
    (pair,) = learnt([episode(), other], "best_worst", 1, 0, keep_truncated=True).groups
    assert [one.mask.tolist() for one in pair.responses] == [list(OWN)] * 2
    write_json_lines(tmp_path / "pairs.jsonl", [pair_row(pair, 1, {})])
    (read,) = read_pairs(tmp_path / "pairs.jsonl")
    assert [one.mask.tolist() for one in read.responses] == [list(OWN)] * 2
    tokens = episode().tokens("plain").with_token_column("advantages", np.array([1, 1, 0, 0, 2], np.float32))
    lines = [advantage_row(episode(), 1, "here", tokens), advantage_row(rollout("b", 0, [5, 2], 1.0), 1, "b", tokens)]
    assert "mask" not in lines[1]
    write_json_lines(tmp_path / "advantages.jsonl", lines[:1])
    (group,) = read_advantages(tmp_path / "advantages.jsonl")
    assert group.responses[0].mask.tolist() == list(OWN)
    assert pack([group]).actions.token_columns["advantages"].tolist() == [1, 1, 2]


def test_numbers_of_a_round_count_what_the_policy_wrote():
    found = round_numbers([episode(), rollout("b", 0, [5, 2], 0.0)], [-2.0, -1.0], [0, 0], seed=0)
    assert found["round/length"] == 2.5  # 3 and 2
    assert found["round/entropy"] == 0.5
    assert found["round/kl"] == pytest.approx(0.25)  # (−1.5 + 2 − 1 + 1) / 2
    assert found["round/distinct_1"] == 2 / 5  # 5 and 2 of 5, 2, 2, 5, 2
    assert found["round/written_tokens"] == found["round/judged_tokens"] == 5


def test_log_probs_are_those_of_the_policy_s_tokens_at_their_places():
    def scorer(batch):
        return -batch.targets.float()

    one = episode()
    ((*read,),) = token_logps(scorer, "cpu", one.prompt_ids, [one.tokens("plain")])
    assert read == [-5, -2, -2]
    assert one.spread(read) == (-5, -2, 0, 0, -2)
    assert list(one.written(one.spread(read))) == read


@pytest.mark.parametrize("loss", ["sft", "dpo", "dmpo", "simpo", "rloo", "ppo"])
def test_what_the_environment_says_last_changes_no_bit_of_a_gradient(loss):
    """It stands behind every action: neither an action nor what one was written behind."""
    objective, found = Objective(find_sum(loss), 0.1), []
    columns = {"advantages": np.linspace(-1, 1, 7, dtype=np.float32), "old_logps": np.full(7, -np.log(9), np.float32)}
    for last in (7, 3):
        model = tiny_model("llama", layers=1, vocab_size=9, seed=1)
        policy = PackedLM(model, "segments")
        sides = []
        for role, tokens in (("chosen", (5, 2, 7, 8, 2, last, last)), ("rejected", (6, 2, 7, 7, 2, 8, last))):
            ids, mask = np.array(tokens, np.int32), np.array([*OWN, False, False])
            sides.append(TokenResponse(ids, mask, False, role, columns))
        batch = pack([TokenGroup(np.array([1, 4], np.int32), tuple(sides), True, "here")])
        logps = policy(batch).logps
        objective.judge(Outputs(logps, 0.5 * logps.detach()), batch.actions).losses[0].sum().backward()
        found.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert any(one.any() for one in found[0])


@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo"])
def test_tokens_of_the_environment_get_no_gradient(loss):
    """The loss of a pair has a log-prob for the policy's own tokens alone: the others are no action at all."""
    other = episode(number=1, tokens=(6, 2, 7, 7, 2), reward=0.0)
    (pair,) = learnt([episode(), other], "best_worst", 1, 0, keep_truncated=True).groups
    batch = pack([pair])
    assert batch.targets.tolist() == [5, 2, 2, 6, 2, 2]
    table = torch.zeros(len(batch.input_ids) + 2, 9, requires_grad=True)  # a row of logits a place: no context
    logps = table.log_softmax(-1)[batch.predictors, batch.targets]
    padded = batch.actions.pad(logps).pairs(batch.actions.pairs)
    row = find_sum(loss).terms[0].loss
    given = (padded, batch.actions.pad(torch.zeros(6)).pairs(batch.actions.pairs)) if row.reference else (padded,)
    row.function(*given).sum().backward()
    assert table.grad is not None
    touched = table.grad.abs().sum(-1) > 0
    assert touched.nonzero()[:, 0].tolist() == sorted(set(batch.predictors.tolist()))
