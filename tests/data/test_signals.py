"""What losses train on besides pairs, and what they read beside responses."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_tokenizer
from toy_tokenizers import bytes_tokenizer

from tokenq.core.losses import find_loss
from tokenq.core.losses.inputs import (
    INPUTS,
    Scene,
    labels,
    rankings,
)
from tokenq.core.packing import pack
from tokenq.core.tensors import Outputs
from tokenq.data.checks import LABELS, MARGINS, refuse_equal
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.signals import (
    reward_scale,
    with_mismatched,
    with_rewards,
    with_steps,
    with_token_numbers,
)
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout, advantage_row

BYTES = bytes_tokenizer()


def rows(*values):
    return [Row(dict(one), f"train.jsonl, row {number}") for number, one in enumerate(values, 1)]


def tokenised(*values, selection="pairs", **options):
    return tokenize(
        read_examples(rows(*values), selection=selection).examples, tiny_tokenizer("bytes"), max_length=80, **options
    )


LABELLED = [
    {"prompt": "a", "completion": " good", "label": True},
    {"prompt": "a", "completion": " bad", "label": False},
    {"prompt": "b", "completion": " so", "label": "1"},
]
PAIR = {"prompt": "q", "chosen": " yes", "rejected": " no"}
RATED = {
    "prompt": "p",
    "answers": [{"answer": t, "rank": r} for t, r in ((" b", 2.0), (" a", 1.0), (" c", 3.0), (" d", 3.0))],
}


def test_labelled_responses_of_one_prompt_are_one_example():
    examples = read_examples(rows(*LABELLED), selection="labelled").examples
    assert [[response.label for response in one.responses] for one in examples] == [[True, False], [True]]
    group = tokenised(*LABELLED, selection="labelled").groups[0]
    assert [response.role for response in group.responses] == ["chosen", "rejected"]
    actions = pack([group]).actions
    assert labels(Scene(actions, Outputs())).tolist() == [True, False]


def test_a_pair_is_two_labelled_responses():
    (example,) = read_examples(rows(PAIR), selection="labelled").examples
    assert [(one.content, one.label) for one in example.responses] == [(" yes", True), (" no", False)]
    assert not example.is_pair


@pytest.mark.parametrize("label", ["maybe", 2, 0.5, "0.7", [], "1" * 500])
def test_a_label_that_is_neither_true_nor_false_is_refused(label):
    with pytest.raises(UserError, match=r"row 1: label .* is neither true nor false"):
        read_examples(rows({"prompt": "a", "completion": " x", "label": label}), selection="labelled")


def test_ratings_are_no_labels():
    with pytest.raises(UserError, match="row 1: no response of the row has a label"):
        read_examples(rows(RATED), selection="labelled")


@pytest.mark.parametrize(
    ("want", "missing"),
    [
        ("labelled", "labelled ones"),
        ("rewarded", "ones with a reward"),
        ("ranked", "rankings"),
        ("calibrated", "pairs"),
    ],
)
def test_single_responses_are_refused_where_more_is_needed(want, missing):
    with pytest.raises(UserError, match=f"the data holds single responses .*, not {missing}"):
        read_examples(rows({"prompt": "a", "completion": " x"}), selection=want)


def test_labels_pairs_and_ratings_give_rewards():
    """A label counts as 1 or 0, so do the sides of a pair without ratings of their own."""

    def scores(*values):
        return [
            [one.score for one in example.responses]
            for example in read_examples(rows(*values), selection="rewarded").examples
        ]

    assert scores(*LABELLED) == [[1.0, 0.0], [1.0]]
    assert scores(PAIR) == [[1.0, 0.0]]
    assert scores(PAIR | {"score_chosen": 7, "score_rejected": 3.5}) == [[7.0, 3.5]]
    assert scores(PAIR | {"score_chosen": 7}) == [[1.0, 0.0]]
    assert scores(RATED) == [[-2.0, -1.0, -3.0, -3.0]]
    missing = {**RATED, "answers": [*RATED["answers"], {"answer": " e", "rank": None}]}
    assert read_examples(rows(missing), selection="rewarded").dropped == {"response without a reward": 1}
    nothing = {**RATED, "answers": [{"answer": " e", "rank": None}]}
    with pytest.raises(UserError, match="row 1: no response of the row has a reward, a rating or a label"):
        read_examples(rows(nothing), selection="rewarded")


def test_a_label_in_place_of_a_reward_must_be_one():
    with pytest.raises(UserError, match="row 1: label 'fair' is neither true nor false"):
        read_examples(rows({"prompt": "a", "completion": " x", "label": "fair"}), selection="rewarded")


REWARDED = [
    {"prompt": "a", "completion": " one", "reward": 1.0},
    {"prompt": "a", "completion": " two", "reward": 4.0},
    {"prompt": "b", "completion": " three", "reward": 7.0},
]


def rewards_in(groups):
    return pack(groups).actions.response_columns["rewards"].tolist()


def test_rewards_are_normalised_over_the_data_set():
    """Mean 4, standard deviation √6; data held out is put on the same scale, whatever its own."""
    groups = tokenised(*REWARDED, selection="rewarded").groups
    scale = reward_scale(groups)
    assert scale == pytest.approx((4.0, 6**0.5))
    normal = with_rewards(groups, scale)
    assert rewards_in(normal) == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5])
    assert rewards_in(with_rewards(groups[1:], scale)) == pytest.approx([1.5**0.5])
    assert rewards_in(with_rewards(normal, scale)) == rewards_in(normal)  # of what was given


def test_rewards_that_do_not_differ_are_refused():
    groups = tokenised(*({**row, "reward": 0.1} for row in REWARDED), selection="rewarded").groups
    with pytest.raises(UserError, match=r"All 3 rewards are 0\.1 \(train\.jsonl, row 1 is the first\)"):
        reward_scale(groups)


def test_what_does_not_differ_is_refused_where_a_loss_tells_it_apart():
    """Margins may all be 2, and order the pairs; all 0 they say nothing, and neither do labels of one kind."""

    def groups(*values, selection):
        return tokenised(*values, selection=selection).groups

    refuse_equal(groups(*LABELLED, selection="labelled"), LABELS)
    good = groups(*({**row, "label": True} for row in LABELLED), selection="labelled")
    with pytest.raises(UserError, match=r"All 3 labels are 1 \(train\.jsonl, row 1 is the first\)"):
        refuse_equal(good, LABELS)
    two = [PAIR | {"prompt": prompt} for prompt in "qr"]
    refuse_equal(groups(*(pair | {"margin": 2} for pair in two), selection="margins"), MARGINS)
    with pytest.raises(UserError, match="All 2 margins are 0"):
        refuse_equal(groups(*(pair | {"margin": 0} for pair in two), selection="margins"), MARGINS)


def test_a_batch_has_rewards_only_where_every_response_has_one():
    groups = tokenised(*REWARDED, selection="rewarded").groups
    normal = with_rewards(groups, reward_scale(groups))
    assert not pack([normal[0], groups[1]]).actions.response_columns
    unrated = tokenised({"prompt": "b", "completion": " three"}, selection="responses").groups
    with pytest.raises(UserError, match="row 1: some responses have no reward"):
        reward_scale([groups[0], *unrated])
    bare = groups[1]
    with pytest.raises(UserError, match="needs rewards of every response"):
        INPUTS["rewards"].sources["data"](certain([bare]))


def certain(groups):
    """Return a scene in which every token was certain."""
    batch = pack(groups)
    return Scene(batch.actions, Outputs(batch.targets.double() * 0))


def test_responses_are_ranked_by_their_ratings_best_first():
    """Rank 1 is the best; of two with one rating the first stays, and the other is counted."""
    found = read_examples(rows(RATED), selection="ranked")
    (example,) = found.examples
    assert [one.content for one in example.responses] == [" a", " b", " c"]
    assert found.dropped["response with the rating of another"] == 1
    (pair,) = read_examples(rows(PAIR), selection="ranked").examples
    assert [one.content for one in pair.responses] == [" yes", " no"]


def test_a_ranking_of_one_response_is_refused():
    with pytest.raises(UserError, match="row 1: there is one response, and a ranking takes two or more"):
        read_examples(rows({"prompt": "p", "answers": [{"answer": " a", "rank": 1}]}), selection="ranked")
    tied = {"prompt": "p", "answers": [{"answer": " a", "rank": 1}, {"answer": " b", "rank": 1}]}
    found = read_examples(rows(RATED, tied), selection="ranked")
    assert (len(found.examples), found.dropped["tied ratings"]) == (1, 1)


def test_rankings_of_a_batch_follow_its_groups():
    groups = tokenised(RATED, {**RATED, "answers": RATED["answers"][:2]}, selection="ranked").groups
    assert rankings(pack(groups).actions).tolist() == [[0, 1, 2], [3, 4, -1]]


def test_a_response_to_calibrate_on_is_read_only_where_it_is_wanted():
    row = PAIR | {"calibration": " maybe"}
    assert [one.content for one in read_examples(rows(row)).examples[0].responses] == [" yes", " no"]
    (example,) = read_examples(rows(row), selection="calibrated").examples
    assert [one.content for one in example.responses] == [" yes", " no", " maybe"]
    assert example.is_pair
    data = tokenised(row, selection="calibrated")
    assert set(data.summary.tokens) == {"prompt", "chosen", "rejected", "calibration"}
    batch = pack(data.groups * 2)
    assert batch.actions.pairs.tolist() == [[0, 1], [3, 4]]
    with pytest.raises(UserError, match=r"row 2: the row has no pair with a text in column 'calibration'"):
        read_examples(rows(row, PAIR), selection="calibrated")


def scene(groups, policy, reference):
    """Return a scene in which every token of response i has log-prob policy[i], and reference[i]."""
    batch = pack(groups)

    def logps(values):
        return batch.targets.new_tensor(values, dtype=float)[batch.actions.responses]

    return Scene(batch.actions, Outputs(logps(policy), logps(reference)))


def test_inputs_come_from_the_right_responses():
    """Responses of 5, 4 and 7 bytes with their EOS: log-ratios 5 · 1, 4 · 2, 7 · 3, each times ½."""
    groups = tokenised(PAIR | {"calibration": " maybe"}, selection="calibrated").groups
    found = scene(groups, [1.0, 2.0, 3.0], [0.5, 1.0, 1.5])
    for source, want in (("given", 10.5), ("chosen", 2.5), ("rejected", 4.0), ("both", 3.25)):
        assert INPUTS["calibration"].sources[source](found).tolist() == [want]
    beside = with_mismatched(tokenised(*LABELLED, selection="labelled").groups, 80)
    found = scene(beside, [1.0] * 5, [0.5] * 5)
    assert labels(found).tolist() == [True, False, True]
    # " so" with its EOS beside "a", " good" with its EOS beside "b".
    assert INPUTS["mismatched"].sources["data"](found).tolist() == [2.0, 3.0]


def test_mismatched_responses_are_those_of_the_next_other_prompt():
    def group(prompt, *answers):
        def one(ids):
            return TokenResponse(np.array(ids, np.int32), np.ones(len(ids), np.bool_), True, "chosen")

        return TokenGroup(np.array(prompt, np.int32), tuple(map(one, answers)), False, "here")

    groups = [group([1], [10, 11], [12]), group([1], [20]), group([2, 2], [30, 31, 32]), group([3], [40])]
    found = with_mismatched(groups, 4)
    added = [one.responses[-1] for one in found]
    assert [one.ids.tolist() for one in added] == [[30, 31, 32], [30, 31, 32], [40], [10, 11]]
    assert [one.role for one in added] == ["mismatched"] * 4
    assert [len(one.responses) for one in found] == [3, 2, 2, 2]
    assert with_mismatched(groups, 3)[0].responses[-1].ids.tolist() == [30, 31]  # two tokens leave room for one prompt
    with pytest.raises(UserError, match="All rows have one prompt"):
        with_mismatched(groups[:2], None)


def steps_of(chosen, rejected):
    """Return which tokens belong to the step that decides."""
    data = tokenised({"prompt": "q", "chosen": chosen, "rejected": rejected}, with_texts=True)
    return [response.token_columns["steps"].tolist() for response in with_steps(data)[0].responses]


def test_steps_are_lines_and_blank_lines_belong_to_the_one_before():
    """Where the two first differ: in the blank line behind the first, in the third line with its EOS, in the second."""
    assert steps_of("ab\n\ncd\n e", "ab\ncx") == [[1] * 4 + [0] * 6, [1] * 3 + [0] * 3]
    assert steps_of("ab\n\ncd\n e", "ab\n\ncd\n f") == [[0] * 7 + [1] * 3] * 2
    assert steps_of("ab\n\ncd\n e", "ab\n\ncx") == [[0] * 4 + [1] * 3 + [0] * 3, [0] * 4 + [1] * 3]


def test_the_deciding_step_is_the_first_that_differs():
    """ "ab / cd / ef" against "ab / cx": the second line of each, with EOS where it ends there."""
    data = tokenised({"prompt": "q", "chosen": "ab\ncd\nef", "rejected": "ab\ncx"}, with_texts=True)
    batch = pack(with_steps(data))
    found = INPUTS["steps"].sources["data"](Scene(batch.actions, Outputs(batch.targets.double())))
    assert found.chosen[0].tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 3
    assert found.rejected[0].tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 3


def test_the_deciding_step_where_one_response_ends_first():
    """The EOS that the other lacks is in it."""
    assert steps_of("ab", "ab\ncx") == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]


def test_what_stands_beside_tokens_is_cut_with_them():
    response = TokenResponse(
        np.arange(4, dtype=np.int32),
        np.ones(4, np.bool_),
        True,
        "chosen",
        {"contrast": np.arange(4, dtype=np.float32), "steps": np.array([0, 0, 1, 1], np.int32)},
        {"rewards": 0.5},
    )
    cut = response.cut(3)
    assert {name: column.tolist() for name, column in cut.token_columns.items()} == {
        "contrast": [0, 1, 2],
        "steps": [0, 0, 1],
    }
    assert (cut.terminal, cut.role, cut.response_columns) == (False, "chosen", {"rewards": 0.5})
    assert response.cut(4) is response


def test_what_stands_beside_masked_tokens_is_left_out():
    response = TokenResponse(
        np.arange(3, dtype=np.int32),
        np.array([True, False, True]),
        True,
        token_columns={"contrast": np.array([0.5, 9.0, -0.5], np.float32)},
    )
    group = TokenGroup(np.array([7], np.int32), (response, response), False, "here")
    assert pack([group]).actions.token_columns["contrast"].tolist() == [0.5, -0.5, 0.5, -0.5]
    bare = replace(group, responses=(response, replace(response, token_columns={})))
    assert not pack([bare]).actions.token_columns


def test_a_loss_without_what_it_needs_says_what_to_do():
    nothing = certain(tokenised(PAIR).groups)
    assert find_loss("step_dpo").inputs == ("steps",)
    with pytest.raises(UserError, match=r"The loss needs steps(.|\n)*Tokenise with steps"):
        INPUTS["steps"].sources["data"](nothing)


def test_a_held_out_part_of_one_prompt_takes_mismatched_responses_from_the_training_data():
    def labelled(*prompts):
        values = [{"prompt": prompt, "completion": f" {prompt}", "label": True} for prompt in prompts]
        return tokenize(read_examples(rows(*values), selection="labelled").examples, BYTES, max_length=None).groups

    trained, held_out = labelled("a", "b"), labelled("z", "z")
    with pytest.raises(UserError, match="All rows have one prompt"):
        with_mismatched(held_out, None)
    found = with_mismatched(held_out, None, trained)
    assert [BYTES.decode(group.responses[-1].ids) for group in found] == [" a<eos>"]
    assert [BYTES.decode(one.ids) for one in found[0].responses] == [" z<eos>", " z<eos>", " a<eos>"]
    own = with_mismatched(labelled("y", "z"), None, trained)  # its own rows, where they are enough
    assert [BYTES.decode(group.responses[-1].ids) for group in own] == [" z<eos>", " y<eos>"]


WRITTEN = {"prompt": "a", "completion": " one", "advantages": [0.5, -1, 2, 0.25, 3], "old_logps": -1.5}


def columns_of(*values, max_length=80, name="advantages"):
    """Return a token column of every response."""
    examples = read_examples(rows(*values), selection="rollouts").examples
    data = tokenize(examples, tiny_tokenizer("bytes"), max_length=max_length, truncation="response_right")
    groups = with_token_numbers(data.groups, name)
    return [[response.token_columns[name].tolist() for response in group.responses] for group in groups]


def test_numbers_of_tokens_stand_beside_them():
    """ " one" is four bytes and EOS; one number is that of every token; rows of one prompt share it."""
    other = {"prompt": "a", "response": " o", "advantages": 7, "finish_reason": "length"}
    assert columns_of(WRITTEN, other) == [[[0.5, -1.0, 2.0, 0.25, 3.0], [7.0, 7.0]]]
    assert columns_of({"prompt": "a", "response": " o", "advantages": [1, 2], "terminal": False}) == [[[1.0, 2.0]]]
    assert columns_of(WRITTEN, name="old_logps") == [[[-1.5] * 5]]
    assert columns_of(WRITTEN, max_length=5) == [[[0.5, -1.0, 2.0]]]  # the response was cut


def test_numbers_that_are_not_one_for_each_token_are_refused():
    with pytest.raises(UserError, match="row 1: a response has 5 tokens and 4 advantages"):
        columns_of(WRITTEN | {"advantages": [1, 2, 3, 4]})
    with pytest.raises(UserError, match="row 1: a response has 5 tokens and 6 advantages"):
        columns_of(WRITTEN | {"advantages": [1] * 6})
    with pytest.raises(UserError, match="row 1: a response has no returns"):
        columns_of(WRITTEN, name="returns")
    with pytest.raises(UserError, match="row 1: advantages 'much' is no finite number"):
        columns_of(WRITTEN | {"advantages": [1, 2, 3, 4, "much"]})
    with pytest.raises(UserError, match="not ones with advantages"):
        columns_of({"prompt": "a", "completion": " x"})
    with pytest.raises(UserError, match="row 1: no response of the row has advantages"):
        columns_of(RATED)


def test_a_response_of_other_tokens_than_were_sampled_is_left_out():
    ids = tokenised(WRITTEN, selection="rollouts").groups[0].responses[0].ids.tolist()
    other = {**WRITTEN, "token_ids": [*ids[:-1], 77]}
    assert len(columns_of(WRITTEN | {"token_ids": ids}, other)[0]) == 1
    assert columns_of(other) == []


def test_a_line_of_a_round_trains_as_the_round_did():
    ids = tokenised(WRITTEN, selection="rollouts").groups[0].responses[0].ids
    numbers = {"old_logps": -ids / 7, "advantages": np.linspace(-1, 1, len(ids))}
    one = Rollout(
        **{"id": "7", "number": 0, "prompt": "a", "response": " one", "prompt_ids": (3,)},
        **{"token_ids": tuple(ids.tolist())},
        **{"logps": (), "kept_mass": None, "finish": "stop", "writer": "policy", "version": 0, "sampling": {}},
        **{"engine": "", "use": "compared", "reward": 1.0},
    )
    columns = {name: column.astype(np.float32) for name, column in numbers.items()}
    row = advantage_row(one, 1, "round 1, prompt 7", replace(one.tokens("plain"), token_columns=columns))
    for name, column in numbers.items():
        assert columns_of(row, name=name)[0][0] == column.astype(np.float32).tolist()
