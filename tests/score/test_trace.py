"""From numbers to traces, with a reader that says what is known by heart: log-probs by token, all else by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenq.core.readout import Candidates, Readout
from tokenq.data.encoding import ResponseText
from tokenq.errors import UserError
from tokenq.records.examples import Example, Response, TokenGroup, TokenResponse
from tokenq.score import rows as module
from tokenq.score.rows import ScoredRow, Scoring
from tokenq.score.spans import find_cut
from tokenq.score.trace import score

BETA = 0.5
SCORING = Scoring(BETA, {"path": "p"}, {"path": "r"}, lambda number: f"<{number}>")


def known(batch, *, logps=lambda ids: -ids / 8, ref_logps=lambda ids: -ids / 4):
    """Read a batch: every number follows from the id of the token taken.

    log π = −id/8, log π_ref = −id/4, ranks id and id + 1, entropies id/16 and id/32, divergences id/64 and id/128. Both
    models' first choices are the tokens 1 and 2, in the other order, with log-probs −1, −2 (π) and −3, −1.5 (π_ref).
    """
    ids, n = batch.targets.double(), len(batch.targets)

    def table(*row):
        return torch.tensor([row] * n).reshape(n, len(row))

    likely = Candidates(table(1, 2), table(-1.0, -2.0), table(-3.0, -1.5))
    ref_likely = Candidates(table(2, 1), table(-2.0, -1.0), table(-1.5, -3.0))
    return Readout(
        logps=logps(ids),
        ref_logps=ref_logps(ids),
        ranks=batch.targets,
        ref_ranks=batch.targets + 1,
        entropies=ids / 16,
        ref_entropies=ids / 32,
        kls=ids / 64,
        ref_kls=ids / 128,
        likely=likely,
        ref_likely=ref_likely,
    )


def make_row(*responses, name="row 1", prompt=(3, 4), pair=False, masks=None, said=(), given=None):
    """Return a row of responses as lists of ids, each token of one letter and the last, EOS, of none."""
    masks = masks or [[True] * len(ids) for ids in responses]
    roles = ("chosen", "rejected") if pair else ("plain",) * len(responses)
    tokens = tuple(
        TokenResponse(np.array(ids, np.int32), np.array(mask), True, role)
        for ids, mask, role in zip(responses, masks, roles, strict=True)
    )
    texts = tuple(
        ResponseText("Q?", "abcdefgh"[: len(ids) - 1], np.array([*range(1, len(ids)), len(ids) - 1], np.int32))
        for ids in responses
    )
    given = given or tuple(Response(text.text) for text in texts)
    example = Example("Q?", given, pair, name)
    return ScoredRow(name, TokenGroup(np.array(prompt, np.int32), tokens, pair, name), texts, example, said)


def traces_of(rows, reader=known, scoring=SCORING, budget=64):
    return list(score(rows, reader, scoring, budget))


def test_every_number_of_a_token_by_hand():
    """Token 8: log π = −1, log π_ref = −2, H(π) = 1/2; β = 1/2."""
    ((trace,),) = traces_of([make_row([8, 16, 2])])
    first, second, eos = trace.tokens
    assert (first.id, first.text, first.start, first.end, first.written) == (8, "a", 0, 1, True)
    assert (first.logp, first.ref_logp) == (-1.0, -2.0)
    assert first.implicit_reward == BETA * (-1.0 + 2.0)
    assert first.advantage == BETA * -1.0
    assert first.centred_advantage == BETA * (-1.0 + 0.5)
    assert (first.rank, first.ref_rank) == (8, 9)
    assert (first.entropy, first.ref_entropy, first.kl) == (0.5, 0.25, 0.125)
    assert (second.implicit_reward, eos.implicit_reward) == (1.0, 0.125)
    assert [token.prefix_value for token in trace.tokens] == [0.5, 1.5, 1.625]
    assert (eos.text, eos.start, eos.end) == ("", 2, 2)


def test_the_totals_are_sums_over_what_the_policy_wrote():
    ((trace,),) = traces_of([make_row([8, 16, 2])])
    totals = trace.totals
    assert (totals.logp, totals.ref_logp, totals.tokens) == (-26 / 8, -26 / 4, 3)
    assert totals.implicit_reward == BETA * 26 / 8 == trace.tokens[-1].prefix_value


def test_a_prefix_value_is_carried_over_what_the_policy_did_not_write():
    ((trace,),) = traces_of([make_row([8, 16, 32, 8, 2], masks=[[True, False, False, True, True]])])
    assert [token.written for token in trace.tokens] == [True, False, False, True, True]
    assert [token.prefix_value for token in trace.tokens] == [0.5, 0.5, 0.5, 1.0, 1.125]
    silent = trace.tokens[1]
    assert (silent.id, silent.text, silent.start, silent.end) == (16, "b", 1, 2)
    numbers = ("logp", "implicit_reward", "advantage", "centred_advantage", "rank", "entropy", "kl", "ref_kl")
    assert {getattr(silent, name) for name in numbers} == {None}
    assert silent.likely == silent.favoured == ()
    assert (trace.totals.tokens, trace.totals.logp, trace.totals.implicit_reward) == (3, -18 / 8, 1.125)


def test_alternatives_by_hand():
    """Token 1 has −1 and −3, token 2 has −2 and −1.5: rewards 1/2 · 2 = 1 and 1/2 · −1/2 = −1/4."""
    ((trace,),) = traces_of([make_row([8, 2])])
    token = trace.tokens[0]
    assert [(one.id, one.text, one.logp, one.ref_logp, one.implicit_reward) for one in token.likely] == [
        (1, "<1>", -1.0, -3.0, 1.0),
        (2, "<2>", -2.0, -1.5, -0.25),
    ]
    assert [(one.id, one.logp, one.ref_logp) for one in token.ref_likely] == [(2, -2.0, -1.5), (1, -1.0, -3.0)]
    assert [one.id for one in token.favoured] == [1, 2]


def with_candidates(likely, ref_likely):
    """Return a reader whose candidates are (id, log π, log π_ref) everywhere."""

    def reader(batch):
        n = len(batch.targets)
        tables = []
        for rows in (likely, ref_likely):
            ids = torch.tensor([[row[0] for row in rows]] * n, dtype=torch.long).reshape(n, len(rows))
            logps = (torch.tensor([[row[i] for row in rows]] * n).reshape(n, len(rows)) for i in (1, 2))
            tables.append(Candidates(ids, *logps))
        return replace(known(batch), likely=tables[0], ref_likely=tables[1])

    return reader


def test_the_favoured_are_those_of_both_lists_with_the_highest_reward():
    likely, ref_likely = [(1, -1.0, -1.5), (2, -2.0, -1.0)], [(3, -3.0, -0.5), (4, -0.25, -2.25)]
    ((trace,),) = traces_of([make_row([8, 2])], with_candidates(likely, ref_likely))
    assert [(one.id, one.implicit_reward) for one in trace.tokens[0].favoured] == [(4, 1.0), (1, 0.25)]


def test_without_alternatives_the_lists_are_empty():
    ((trace,),) = traces_of([make_row([8, 2])], with_candidates([], []))
    assert trace.tokens[0].likely == trace.tokens[0].ref_likely == trace.tokens[0].favoured == ()


def test_alternatives_that_a_model_rules_out_are_left_out():
    likely = [(1, -1.0, -3.0), (2, -2.0, -math.inf), (3, -math.inf, -math.inf)]
    ((trace,),) = traces_of([make_row([8, 2])], with_candidates(likely, likely))
    assert [one.id for one in trace.tokens[0].likely] == [1]
    assert [one.id for one in trace.tokens[0].favoured] == [1]


def test_a_token_is_decoded_once():
    asked = []
    scoring = replace(SCORING, decode=lambda number: asked.append(number) or "x")
    traces_of([make_row([8, 16, 2]), make_row([8, 2], name="row 2")], scoring=scoring)
    assert sorted(asked) == [1, 2]


def test_an_infinite_divergence_is_none():
    def reader(batch):
        return replace(known(batch), kls=torch.full((len(batch.targets),), math.inf))

    ((trace,),) = traces_of([make_row([8, 2])], reader)
    assert [token.kl for token in trace.tokens] == [None, None]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"logps": lambda ids: ids * math.nan}, "row 1: the policy gives '<8>' a log-prob of nan"),
        ({"ref_logps": lambda ids: -ids / (ids != 16)}, "row 1: the reference gives '<16>' a log-prob of -inf"),
    ],
)
def test_a_log_prob_that_is_no_number_is_an_error(numbers, says):
    with pytest.raises(UserError) as caught:
        traces_of([make_row([8, 16, 2])], lambda batch: known(batch, **numbers))
    assert says in caught.value.message
    assert "--dtype float32" in caught.value.hint


def test_a_pair_is_two_traces_with_their_sides():
    ((chosen, rejected),) = traces_of([make_row([8, 2], [16, 24, 2], pair=True)])
    assert [(t.id, t.side) for t in (chosen, rejected)] == [("row 1/chosen", "chosen"), ("row 1/rejected", "rejected")]
    assert [[token.id for token in t.tokens] for t in (chosen, rejected)] == [[8, 2], [16, 24, 2]]
    assert [t.totals.logp for t in (chosen, rejected)] == [-10 / 8, -42 / 8]


def test_responses_that_are_no_pair_have_numbers_and_one_alone_has_the_name_of_its_row():
    several, (alone,) = traces_of([make_row([8, 2], [16, 2], [24, 2]), make_row([8, 2], name="row 2")])
    assert [(t.id, t.side) for t in several] == [("row 1/0", None), ("row 1/1", None), ("row 1/2", None)]
    assert [t.tokens[0].id for t in several] == [8, 16, 24]
    assert (alone.id, alone.side) == ("row 2", None)


@pytest.mark.parametrize(("chunk", "budget"), [(256, 1000), (256, 1), (3, 30), (1, 1000)])
def test_traces_leave_in_the_order_of_the_rows(chunk, budget, monkeypatch):
    """Rows of all lengths are batched by length, several a batch or each alone, a chunk at a time."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    rows = [
        make_row(
            *([*rng.integers(3, 90, rng.integers(1, 7)).tolist(), 2] for _ in range(2)),
            pair=bool(number % 2),
            name=f"row {number}",
            prompt=tuple(range(3, 4 + number % 4)),
        )
        for number in range(8)
    ]
    seen = []

    def reader(batch):
        seen.append(len(batch.actions.members))
        return known(batch)

    found = traces_of(rows, reader, budget=budget)
    assert sum(seen) == 16
    assert (max(seen) == 2) == (budget == 1 or chunk == 1)
    for row, pair in zip(rows, found, strict=True):
        for trace, response in zip(pair, row.group.responses, strict=True):
            assert trace.id.startswith(f"{row.id}/")
            assert [token.id for token in trace.tokens] == response.ids.tolist()
            assert [token.logp for token in trace.tokens] == (-response.ids / 8).tolist()


def test_what_the_data_says_is_kept():
    given = (Response("a", label=True, score=4.5), Response("b", label=False))
    ((first, second),) = traces_of([make_row([8, 2], [16, 2], given=given)])
    assert (first.label, first.score, second.label, second.score) == (True, 4.5, False, None)


def test_warnings_of_the_run_and_of_the_row_are_said():
    scoring = replace(SCORING, warnings=("quantised",))
    (one,), (other,) = traces_of([make_row([8, 2], said=("cut",)), make_row([8, 2], name="row 2")], scoring=scoring)
    assert (one.warnings, other.warnings) == (("quantised", "cut"), ("quantised",))


def test_what_all_traces_share():
    row = make_row([8, 16, 2])
    cut = TokenResponse(row.group.responses[0].ids, row.group.responses[0].mask, False)
    rows = [row, replace(row, group=replace(row.group, responses=(cut,)))]
    (one,), (other,) = traces_of(rows)
    assert (one.beta, one.gauge, one.policy, one.reference) == (BETA, "normalised", {"path": "p"}, {"path": "r"})
    assert (one.prompt, one.response) == ("Q?", "ab")
    assert (one.terminal, other.terminal) == (True, False)


def test_spans_are_made_at_every_level_and_from_the_steps_of_the_data():
    given = (Response("abcd", steps=("ab", "cd"), step_labels=(True, False)),)
    scoring = replace(SCORING, cuts=[find_cut("step"), find_cut("word"), find_cut("regex:c")])
    ((trace,),) = traces_of([make_row([8, 16, 8, 24, 2], given=given)], scoring=scoring)
    assert [(span.level, span.start, span.end, span.label) for span in trace.spans] == [
        ("step", 0, 2, True),
        ("step", 2, 4, False),
        ("word", 0, 4, None),
        ("regex", 2, 3, None),
    ]
    assert [span.sum for span in trace.spans] == [1.5, 2.125, 3.625, 0.5]
    assert [span.end_value for span in trace.spans] == [1.5, 3.625, 3.625, 2.0]


def test_gradients_are_not_kept():
    states = []

    def reader(batch):
        states.append(torch.is_grad_enabled())
        return known(batch)

    traces_of([make_row([8, 2])], reader)
    assert states == [False]
