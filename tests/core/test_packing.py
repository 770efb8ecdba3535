"""The layout of a packed row, by hand and by properties; how a step is cut into micro-batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenq.core.packing import pack, plan_pass, plan_step
from tokenq.core.tensors import Segment, TokenLogps
from tokenq.records.examples import TokenGroup, TokenResponse


def response(ids, mask=None, role="plain"):
    kept = np.ones(len(ids), dtype=bool) if mask is None else np.array(mask, dtype=bool)
    return TokenResponse(np.array(ids, dtype=np.int32), kept, True, role)


def group(prompt, *responses, pair=False):
    return TokenGroup(np.array(prompt, dtype=np.int32), responses, pair, "here")


# A pair whose rejected response has one token, and a dialogue in which the second response token is the user's.
PAIR = group([10, 11, 12], response([20, 21, 2], role="chosen"), response([30], role="rejected"), pair=True)
DIALOGUE = group([13], response([40, 41, 42, 2], [True, False, True, True]))


def test_a_row_by_hand():
    """Index   0  1  2 | 3  4 | 5 | 6  7  8
    Token     10 11 12 |20 21 |13 |40 41 42    (the last token of a response is no input)
    Position   0  1  2 | 3  4 | 0 | 1  2  3    (a response goes on where its prompt ends)
    """
    batch = pack([PAIR, DIALOGUE], [7, 4])
    assert batch.input_ids.tolist() == [10, 11, 12, 20, 21, 13, 40, 41, 42]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    # The first response runs on from its prompt; the rejected one has one token, which is no input.
    assert batch.segments == (Segment(0, 5, 5, 5), Segment(5, 9, 9, 9))
    assert pack([group([1, 2], response([3]), response([4, 5, 6]))]).segments == (
        Segment(0, 2, 2, 2),
        Segment(2, 4, 0, 2),
    )
    # The last prompt token predicts the first token of every response; 41 is the user's and no target.
    assert batch.predictors.tolist() == [2, 3, 4, 2, 5, 7, 8]
    assert batch.targets.tolist() == [20, 21, 2, 30, 40, 42, 2]
    assert batch.actions.responses.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert batch.actions.places.tolist() == [0, 1, 2, 0, 0, 2, 3]
    assert batch.actions.shape == (3, 4)
    assert batch.actions.pairs.tolist() == [[0, 1]]
    assert batch.actions.members == ((7, 0), (7, 1), (4, 0))
    assert batch.actions.roles == ("chosen", "rejected", "plain")
    assert batch.actions.of_role("rejected", "plain").tolist() == [1, 2]
    assert batch.actions.origins == ("here",) * 3
    assert batch.actions.mask().tolist() == [
        [True] * 3 + [False],
        [True, False, False, False],
        [True, False, True, True],
    ]


def test_without_places_the_groups_are_counted():
    assert pack([DIALOGUE, PAIR]).actions.members == ((0, 0), (1, 0), (1, 1))
    assert pack([DIALOGUE, PAIR]).actions.pairs.tolist() == [[1, 2]]


def test_only_pairs_are_pairs():
    batch = pack([DIALOGUE])
    assert batch.actions.pairs.shape == (0, 2)
    assert pack([group([1], response([5]), response([6]))]).actions.pairs.shape == (0, 2)


def test_flat_values_are_padded_with_zeros_and_keep_their_gradient():
    batch = pack([PAIR, DIALOGUE])
    flat = torch.arange(1.0, 8.0, dtype=torch.float64, requires_grad=True)
    padded = batch.actions.pad(flat)
    assert padded.logps.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [5, 0, 6, 7]]
    assert padded.sums().tolist() == [6, 4, 18]
    assert padded.lengths().tolist() == [3, 1, 3]
    padded.sums()[2].backward()
    assert flat.grad.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_rows_are_selected_and_paired_by_index():
    mask = torch.ones(4, 2, dtype=torch.bool)
    logps = TokenLogps(torch.arange(8.0).reshape(4, 2), mask)
    pairs = logps.pairs(torch.tensor([[3, 0], [1, 2]]))
    assert pairs.chosen.logps.tolist() == [[6, 7], [2, 3]]
    assert pairs.rejected.logps.tolist() == [[0, 1], [4, 5]]
    assert logps.select(torch.tensor([2])).logps.tolist() == [[4, 5]]


def test_moving_a_batch_keeps_it():
    batch = pack([PAIR, DIALOGUE])
    moved = batch.to("cpu")
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert moved.segments == batch.segments
    assert moved.actions.members == batch.actions.members


def test_the_size_of_a_group_bounds_its_row():
    """`n_tokens` counts the last tokens too, which are no inputs: one for each response."""
    assert PAIR.n_tokens == 7
    assert len(pack([PAIR]).input_ids) == 7 - 2


@st.composite
def token_groups(draw):
    def ids(low, high):
        return draw(st.lists(st.integers(0, 99), min_size=low, max_size=high))

    made = []
    for _ in range(draw(st.integers(1, 4))):
        texts = [ids(1, 6) for _ in range(draw(st.integers(1, 3)))]
        masks = [draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text))) for text in texts]
        roles = ["chosen", "rejected", "plain"]
        responses = [response(text, mask, role) for text, mask, role in zip(texts, masks, roles, strict=False)]
        made.append(group(ids(1, 5), *responses, pair=len(responses) == 2))
    return made


@settings(deadline=None)
@given(token_groups())
def test_every_target_sees_its_prompt_and_its_own_past_and_nothing_else(groups):
    """What a predictor may attend to, read off the segments, is prompt + response[:column], at positions 0, 1, 2, …"""
    batch = pack(groups)
    expected = [
        (member, column)
        for member, (g, which) in enumerate((g, r) for g in groups for r in range(len(g.responses)))
        for column in np.flatnonzero(g.responses[which].mask)
    ]
    assert list(zip(batch.actions.responses.tolist(), batch.actions.places.tolist(), strict=True)) == expected
    for n, predictor in enumerate(batch.predictors.tolist()):
        segment = next(s for s in batch.segments if s.start <= predictor < s.stop)
        seen = [*range(segment.prefix_start, segment.prefix_stop), *range(segment.start, predictor + 1)]
        place, which = batch.actions.members[batch.actions.responses[n]]
        column = int(batch.actions.places[n])
        own = groups[place].responses[which].ids.tolist()
        assert batch.input_ids[seen].tolist() == groups[place].prompt_ids.tolist() + own[:column]
        assert batch.position_ids[seen].tolist() == list(range(len(seen)))
        assert batch.targets[n] == own[column]
    assert [i for s in batch.segments for i in range(s.start, s.stop)] == list(range(len(batch.input_ids)))


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=25)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 150), st.integers(1, 4))
def test_a_step_is_shared_out_completely_and_evenly(lengths, budget, processes):
    plan = plan_step(lengths, budget, processes)
    assert len(plan) == processes
    assert len({len(micro_batches) for micro_batches in plan}) == 1
    bins = [bin_ for micro_batches in plan for bin_ in micro_batches]
    assert sorted(place for bin_ in bins for place in bin_) == list(range(len(lengths)))
    for bin_ in bins:
        assert sum(lengths[place] for place in bin_) <= budget or len(bin_) == 1
    # An empty micro-batch is a forward for nothing: only as many as it takes to give every process the same number.
    assert sum(not bin_ for bin_ in bins) < processes


@settings(deadline=None)
@given(LENGTHS, st.integers(60, 150))
def test_no_micro_batch_is_much_smaller_than_another(lengths, budget):
    """Longest first into the emptiest: two fills differ by one group at most."""
    fills = [sum(lengths[place] for place in bin_) for bin_ in plan_step(lengths, budget)[0]]
    assert max(fills) - min(fills) <= max(lengths)


def test_a_step_by_hand():
    """Lengths 5, 4, 3, 3, 1 and a budget of 8: sixteen tokens in two bins, 5 + 3 and 4 + 3 + 1."""
    assert plan_step([3, 5, 1, 4, 3], 8) == [[[1, 4], [3, 0, 2]]]
    assert plan_step([3, 5, 1, 4, 3], 8, 2) == [[[1, 4]], [[3, 0, 2]]]
    assert plan_step([3, 5, 1, 4, 3], 100) == [[[1, 3, 0, 4, 2]]]


def test_long_groups_stand_alone_and_cost_no_empty_micro_batches():
    """Four groups of 100 tokens and a budget of 10: four micro-batches, not forty."""
    assert plan_step([100] * 4, 10) == [[[0], [1], [2], [3]]]
    assert plan_step([100] * 3, 10, 2) == [[[0], [2]], [[1], []]]


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 150))
def test_a_pass_visits_everything_once_in_batches_of_like_length(lengths, budget):
    batches = plan_pass(lengths, budget)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(batches)
    for batch in batches:
        assert sum(lengths[place] for place in batch) <= budget or len(batch) == 1
    visited = [lengths[place] for batch in batches for place in batch]
    assert visited == sorted(lengths, reverse=True)


def test_a_pass_by_hand():
    """By length 9 (alone, over the budget), 5 + 3, 3 + 2 + 1."""
    assert plan_pass([3, 9, 2, 5, 3, 1], 8) == [[1], [3, 0], [4, 2, 5]]
    assert plan_pass([], 8) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_groups_of_one_response_need_no_response_tokens_in_the_row(count):
    groups = [group([1, 2], response([9]))] * count
    batch = pack(groups)
    assert batch.input_ids.tolist() == [1, 2] * count
    assert batch.predictors.tolist() == [2 * i + 1 for i in range(count)]
