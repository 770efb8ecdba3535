"""Runs made sick on purpose get the finding that they should, with the numbers that say so; healthy ones get none."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from recorded_runs import (
    BETA,
    CONFIG,
    FACTS,
    STEPS,
    SUMMARY,
    dpo_line,
    eval_line,
    found,
    healthy_dpo,
    healthy_sft,
    with_config,
    with_metric,
    with_summary,
    written,
)
from tiny import CHATML, tiny_tokenizer

from tokenq.doctor.data_checks import data_facts, loops, repetition
from tokenq.doctor.doctor import CHECKS, diagnose, healthy
from tokenq.doctor.finding import Evidence, percent, shown
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.runs.facts import ModelNow, Samples, Scored
from tokenq.runs.record import RunRecord, read_run


def alone(record, name, severity):
    """Return the finding of that name, which must be the only one worse than a note, or the only new note."""
    findings = found(record)
    bad = {one.name: one.severity for one in findings.values() if one.severity != "note"}
    assert bad == ({} if severity == "note" else {name: severity})
    assert findings[name].severity == severity
    return findings[name]


def numbers(finding):
    """Return the evidence as {what: (value, step)}."""
    return {one.what: (one.value, one.step) for one in finding.evidence}


# --- healthy runs -----------------------------------------------------------------------------------------------------


def test_a_healthy_dpo_run_gets_one_note_that_explains_why_both_log_probs_fall():
    """Chosen −0.3/0.1 = −3 nats, rejected −9, margin 6; −β KL = −(0.3 + 0.9)/2 = −0.6."""
    findings = found(healthy_dpo())
    assert {name: one.severity for name, one in findings.items()} == {"both-fall": "note"}
    values = numbers(findings["both-fall"])
    assert values["log π − log π_ref of the chosen responses, nats"] == (pytest.approx(-3), 40)
    assert values["log π − log π_ref of the rejected responses, nats"] == (pytest.approx(-9), 40)
    assert values["chosen minus rejected, nats"] == (pytest.approx(6), 40)
    assert values["mean reward of both, −β times the estimate of KL(π_ref‖π)"] == (pytest.approx(-0.6), 40)
    assert healthy(diagnose(healthy_dpo()))


def test_a_healthy_run_of_demonstrations_gets_nothing():
    assert found(healthy_sft()) == {}


def test_a_run_whose_chosen_log_probs_rise_needs_no_explanation():
    assert found(healthy_dpo(chosen=0.2, rejected=-0.4)) == {}


def test_a_run_without_evaluation_is_judged_by_its_last_steps():
    """The last tenth are steps 37 to 40, measured after 36 to 39 updates: chosen −0.3 · 37.5/40 / 0.1 nats."""
    findings = found(replace(healthy_dpo(), evals=(), held_out=None))
    assert set(findings) == {"both-fall", "nothing-held-out"}
    chosen = numbers(findings["both-fall"])["log π − log π_ref of the chosen responses, nats"]
    assert chosen == (pytest.approx(-0.3 * 37.5 / 40 / BETA), 40)


def test_nothing_recorded_and_nothing_measured_finds_nothing():
    assert diagnose(RunRecord("policy")) == []


def test_every_check_is_in_the_table_once():
    assert len(set(CHECKS.values())) == len(CHECKS)


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_policy_that_does_not_start_as_its_reference():
    """A reward of −0.5 on 100 tokens at β 0.1 is 0.05 nats per token; nobody asked for another reference."""
    record = healthy_dpo()
    off = {**record.evals[0], "eval_rewards/chosen": -0.5, "eval_loss": 0.71}
    sick = replace(record, evals=(off, *record.evals[1:]))
    finding = alone(sick, "start-off-reference", "error")
    assert numbers(finding)["log π − log π_ref, nats per token"] == (pytest.approx(0.05), 0)
    assert numbers(finding)["loss, 0.6931 where policy = reference"] == (0.71, 0)
    asked = with_config(sick, reference="runs/other/policy")
    finding = alone(asked, "start-off-reference", "warning")
    assert "The reference is runs/other/policy, training began from runs/sft/policy." in finding.found


def test_another_model_as_reference_is_an_error_even_where_it_was_asked_for():
    record = with_config(healthy_dpo(), reference="gpt2")
    off = {**record.evals[0], "eval_rewards/rejected": 6.0}  # 0.6 nats per token
    alone(replace(record, evals=(off, *record.evals[1:])), "start-off-reference", "error")


def test_a_first_loss_off_ln_2_is_seen_without_any_mean_reward():
    """Rewards of single pairs that average to 0 raise the loss: −log σ is convex."""
    record = replace(healthy_dpo(), evals=())
    sick = with_metric(record, "loss", {1: 0.72})
    assert numbers(found(sick)["start-off-reference"])["loss, 0.6931 where policy = reference"] == (0.72, 0)


@pytest.mark.parametrize(("loss", "value"), [("dpo", math.log(2)), ("ipo_sum", 25.0), ("hinge", 1.0), ("sft", None)])
def test_the_loss_at_the_start_is_that_of_the_loss_itself(loss, value):
    """IPO: (0 − 1/(2 · 0.1))² = 25; hinge: max(0, 1 − 0)."""
    record = with_config(healthy_dpo(), loss=loss, beta=None)
    assert record.start_loss() == (None if value is None else pytest.approx(value, abs=1e-6))


def test_chosen_responses_that_fall_for_more_than_the_margin_gains():
    """−2/0.1 = −20 nats chosen on 100 tokens, 0.2 a token; margin only 10 nats."""
    finding = alone(healthy_dpo(chosen=-2.0, rejected=-3.0), "chosen-collapses", "warning")
    assert "lost 20 nats, which is more than the margin gained" in finding.found
    assert numbers(finding)["change of the chosen responses, nats per token"] == (pytest.approx(-0.2), 40)


def test_chosen_responses_that_fall_far_are_fine_while_the_margin_gains_more():
    """−12 nats chosen, 0.12 a token, and a margin of 18."""
    assert healthy(diagnose(healthy_dpo(chosen=-1.2, rejected=-3.0)))


def test_chosen_responses_that_become_gibberish_are_an_error_whatever_the_margin():
    """−6/0.1 = −60 nats on 100 tokens: 0.6 a token."""
    findings = found(healthy_dpo(chosen=-6.0, rejected=-14.0))
    assert findings["chosen-collapses"].severity == "error"
    assert "though the margin gained more" in findings["chosen-collapses"].found


def test_a_margin_without_bound_that_kl_pays_for():
    """Margin 8, KL (1 + 9)/0.2 = 50 nats or 0.5 a token: not above FAR_APART, so that growth must be seen too."""
    finding = alone(healthy_dpo(chosen=-1.0, rejected=-9.0), "kl-explodes", "warning")
    values = numbers(finding)
    assert values["KL(π_ref‖π), nats per response"] == (pytest.approx(50), 40)
    assert values["KL(π_ref‖π), nats per token"] == (pytest.approx(0.5), 40)
    # 13 steps a third: 14..26 after 13..25 updates, mean 19; 27..39 after 26..38, mean 32; margin 8 · n/40.
    assert values["mean margin of the middle third"] == (pytest.approx(8 * 19 / 40), None)
    assert values["mean margin of the last third"] == (pytest.approx(8 * 32 / 40), None)


def test_the_same_margin_is_fine_where_the_chosen_responses_rise_as_much():
    assert healthy(diagnose(healthy_dpo(chosen=4.0, rejected=-4.0)))


def test_training_that_gains_while_held_out_data_loses():
    record = healthy_dpo()
    last = {**record.evals[2], "eval_loss": 0.67}  # 0.593 at step 20
    finding = alone(replace(record, evals=(*record.evals[:2], last)), "over-optimised", "warning")
    assert numbers(finding)["best eval_loss"] == (pytest.approx(math.log(2) - 0.1), 20)
    assert numbers(finding)["last eval_loss"] == (0.67, 40)
    assert "since step 20" in finding.found
    assert finding.change.startswith("Keep the checkpoint of the best held-out loss the next time (--keep-best ")
    worse = replace(record, evals=(record.evals[0], {**last, "eval_loss": 0.9}))
    assert alone(worse, "over-optimised", "warning").change.startswith("The start was best: train fewer --epochs")
    kept = replace(record, evals=(*record.evals[:2], last), checkpoints=(20, 40), path="runs/my own")
    change = alone(kept, "over-optimised", "warning").change
    assert "Take the checkpoint of step 20 (tokenq export 'runs/my own' --output FOLDER --step 20)" in change


def test_held_out_accuracy_that_falls_by_more_than_noise():
    """From 0.7 to 0.6 on 400 pairs: two standard errors are 2 √(0.7 · 0.3 / 400) = 0.046."""
    record = healthy_dpo()

    def ending(accuracy):
        last = {**record.evals[2], "eval_rewards/accuracies": accuracy}
        return replace(record, evals=(*record.evals[:2], last))

    finding = alone(ending(0.6), "over-optimised", "warning")
    assert numbers(finding)["best eval_rewards/accuracies"] == (0.7, 20)
    assert healthy(diagnose(ending(0.66)))


def test_demonstrations_learnt_by_heart():
    record = healthy_sft()
    evals = (record.evals[0], {**record.evals[1], "step": 20, "eval_loss": 1.4}, {**record.evals[1], "eval_loss": 1.6})
    alone(replace(record, evals=evals), "over-optimised", "warning")


@pytest.mark.parametrize(
    ("accuracy", "pairs", "name", "severity"),
    [
        (0.52, 111, "accuracy-at-chance", "note"),
        (0.52, 600, "accuracy-at-chance", "warning"),
        (0.35, 400, "labels-reversed", "warning"),
    ],
)
def test_held_out_accuracy_at_and_below_chance(accuracy, pairs, name, severity):
    record = healthy_dpo(accuracy=accuracy)
    told = {**record.provenance["eval_data"], "summary": {**SUMMARY, "pairs": pairs}}
    finding = alone(replace(record, provenance={**record.provenance, "eval_data": told}), name, severity)
    assert numbers(finding)["pairs"] == (pairs, None)


def with_segments(accuracy, spread, pairs=600):
    """A run of two segments whose image has this held-out accuracy and spread; the words' are .7 and 0.3."""
    found = {"words": (0.7, 0.3), "image": (accuracy, spread)}
    metrics = {f"eval_rewards/accuracies/{name}": one for name, (one, _) in found.items()}
    metrics |= {f"eval_rewards/margin_sd/{name}": sd for name, (_, sd) in found.items()}
    record = with_config(healthy_dpo(), segments={"words": 0.1, "image": 0.05})
    told = {**record.provenance["eval_data"], "summary": {**SUMMARY, "pairs": pairs}}
    evals = (*record.evals[:-1], {**record.evals[-1], **metrics})
    return replace(record, evals=evals, provenance={**record.provenance, "eval_data": told})


def test_a_segment_that_decides_pairs_by_its_noise():
    """At .52 of 600 pairs the interval is .480 to .560; the spread .6 is twice the words'."""
    finding = alone(with_segments(0.52, 0.6), "segment-overfits", "warning")
    assert "segment image decides most pairs" in finding.found
    assert numbers(finding)["rewards/accuracies/image"] == (0.52, 40)
    assert numbers(finding)["rewards/margin_sd/words, strength 0.1"] == (0.3, 40)
    for healthy_one in (with_segments(0.6, 0.6), with_segments(0.52, 0.59), with_segments(0.52, 0.6, pairs=0)):
        assert "segment-overfits" not in {one.name for one in diagnose(healthy_one)}


def test_every_pair_right_before_one_was_seen_twice():
    """Batches of 10: seven steps are 70 pairs. Steps 3 to 9 are the first seven that are all right."""
    sick = with_metric(healthy_dpo(), "rewards/accuracies", lambda step, old: 1.0 if step >= 3 else old)
    values = numbers(alone(sick, "perfect-too-early", "warning"))
    assert values["mean rewards/accuracies over 7 steps"] == (pytest.approx(1.0), 9)
    assert values["share of pairs whose chosen response is longer"] == (pytest.approx(210 / 390), None)


def test_every_pair_right_late_is_what_training_is_for():
    sick = with_metric(healthy_dpo(), "rewards/accuracies", lambda step, old: 1.0 if step >= 15 else old)
    assert healthy(diagnose(sick))


# --- optimiser --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number():
    finding = alone(with_metric(healthy_dpo(), "loss", {17: None}), "not-finite", "error")
    assert finding.evidence == (Evidence("loss", "not finite", 17),)
    assert "1 of 40 steps" in finding.found


def test_a_gradient_scaler_may_skip_a_step_and_no_more():
    record = with_config(healthy_dpo(), mixed_precision="fp16")
    assert healthy(diagnose(with_metric(record, "grad_norm", {1: None})))
    alone(with_metric(record, "grad_norm", {1: None, 2: None, 3: None}), "not-finite", "error")


def test_a_gradient_of_nothing():
    record = healthy_dpo(chosen=0.0, rejected=0.0, loss_gain=0.0)
    sick = with_metric(record, "grad_norm", lambda *_: 0.0)
    assert alone(sick, "nothing-trains", "error").evidence[0] == Evidence("largest grad_norm", 0.0, 40)


def test_a_loss_that_has_run_into_its_floor():
    sick = with_metric(healthy_dpo(), "grad_norm", lambda step, old: 0.0 if step > 12 else old)
    assert numbers(alone(sick, "nothing-left-to-learn", "warning"))["grad_norm"] == (0.0, 13)


def test_a_policy_that_never_moves():
    """0.002/0.1 = 0.02 nats on 100 tokens: 0.0002 a token."""
    finding = alone(healthy_dpo(chosen=-0.001, rejected=-0.002, loss_gain=0.0005), "nothing-moved", "warning")
    assert numbers(finding)["log π − log π_ref, nats per token"] == (pytest.approx(0.0002), 40)
    assert numbers(finding)["largest learning_rate"] == (1e-6, None)


def test_demonstrations_whose_loss_stays_flat():
    record = with_metric(healthy_sft(), "loss", lambda step, _: 2.0 - 0.0001 * step)
    evals = tuple({**row, "eval_loss": 2.0 - 0.0001 * row["step"]} for row in record.evals)
    finding = alone(replace(record, evals=evals), "nothing-moved", "warning")
    assert numbers(finding)["relative change of the loss"] == (pytest.approx(0.002), 40)
    assert "nothing-moved" in found(replace(record, evals=()))


def test_a_gradient_that_jumps():
    """0.8 in all steps; 12 is fifteen times the median of those before."""
    finding = alone(with_metric(healthy_dpo(), "grad_norm", {25: 12.0}), "spikes", "warning")
    assert finding.evidence == (Evidence("grad_norm, 15 times the median before", 12.0, 25),)
    assert healthy(diagnose(with_metric(healthy_dpo(), "grad_norm", {25: 6.0})))


def test_a_loss_that_jumps():
    finding = alone(with_metric(healthy_dpo(), "loss", {30: 2.4}), "spikes", "warning")
    assert finding.evidence[0].step == 30
    assert "loss, 4 times" in finding.evidence[0].what


def test_a_jump_out_of_next_to_nothing_is_no_spike():
    """Late in a run most pairs are learnt; a hard one then stands out of 0.001 and not out of the beginning."""
    late = with_metric(healthy_dpo(), "grad_norm", lambda step, old: 0.001 if 20 < step != 35 else old)
    assert healthy(diagnose(late))


def test_a_loss_that_ends_above_where_it_began():
    sick = with_metric(healthy_dpo(), "loss", lambda step, old: old if step < 15 else 0.95 + 0.01 * (step % 2))
    finding = alone(sick, "worse-than-untrained", "warning")
    assert numbers(finding)["loss at policy = reference"] == (pytest.approx(math.log(2)), 0)
    assert numbers(finding)["mean loss, last quarter"] == (pytest.approx(0.955), 40)


def test_first_updates_that_throw_the_loss_up_without_a_warm_up():
    thrown = with_metric(healthy_dpo(), "loss", {3: 1.3})
    cold = with_config(thrown, warmup_ratio=0.0)
    assert numbers(alone(cold, "no-warm-up", "warning"))["loss"] == (1.3, 3)
    assert healthy(diagnose(thrown))
    assert healthy(diagnose(with_config(healthy_dpo(), warmup_ratio=0.0)))


def test_clipping_in_every_step_is_a_note():
    sick = with_metric(healthy_dpo(), "grad_norm", lambda *_: 8.0)
    assert numbers(alone(sick, "always-clipped", "note"))["median grad_norm"] == (8.0, None)


@pytest.mark.parametrize(
    ("metric", "change", "evidence"),
    [
        ("padding_share", lambda *_: 0.4, ("mean padding_share", 0.4)),
        ("tokens_per_second", lambda step, old: old / (3 if step > 20 else 1), ("last quarter", 1000 / 3)),
        ("peak_memory_gb", lambda step, old: old + 0.1 * step, ("at the end", 6.0)),
    ],
)
def test_oddities_of_cost_are_notes(metric, change, evidence):
    finding = alone(with_metric(healthy_dpo(), metric, change), "costly", "note")
    what, value = evidence
    assert numbers(finding)[what][0] == pytest.approx(value)


def test_a_run_that_was_stopped():
    """400 pairs in batches of 10 are 40 steps."""
    record = healthy_dpo()
    stopped = replace(record, finished=False, steps=record.steps[:30], evals=record.evals[:2])
    finding = alone(stopped, "unfinished", "note")
    assert finding.evidence == (Evidence("last step", 30, 30), Evidence("steps planned", "40"))


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name", "severity"),
    [
        ({"truncated_responses": 8}, "responses-cut", "note"),
        ({"truncated_responses": 80}, "responses-cut", "warning"),
        ({"truncated_responses": 700}, "responses-cut", "error"),
        ({"dropped": {"prompt and response longer than the limit": 60}}, "rows-lost", "warning"),
        ({"dropped": {"empty response": 4}}, "rows-lost", "note"),
        ({"dropped": {"chosen equals rejected": 20}}, "chosen-equals-rejected", "warning"),
        ({"dropped": {"chosen equals rejected": 2}}, "chosen-equals-rejected", "note"),
        ({"boundary_merges": 10}, "boundary-merges", "note"),
        ({"boundary_merges": 100}, "boundary-merges", "warning"),
        ({"template_rewrites": 100}, "boundary-merges", "note"),
    ],
)
def test_the_account_of_the_data_is_judged_without_the_rows(changes, name, severity):
    alone(with_summary(healthy_dpo(), **changes), name, severity)


def test_a_cut_response_is_counted_with_what_is_left():
    finding = found(with_summary(healthy_dpo(), truncated_responses=80))["responses-cut"]
    assert "10 % of the responses" in finding.found
    assert numbers(finding)["share of responses with EOS"] == (0.9, None)
    assert numbers(finding)["max_length"] == (512, None)


@pytest.mark.parametrize(
    ("changes", "name", "severity"),
    [
        ({"duplicates": 4}, "duplicate-rows", "note"),
        ({"duplicates": 41}, "duplicate-rows", "warning"),
        ({"duplicates": 40}, "duplicate-rows", "note"),
        ({"reversed_pairs": 3}, "contradictory-pairs", "note"),
        ({"reversed_pairs": 8}, "contradictory-pairs", "warning"),
        ({"near_equal": 300}, "pairs-nearly-equal", "note"),
        ({"loops": 60}, "data-repeats-itself", "warning"),
        ({"longer": 330}, "length-tells", "warning"),
        ({"longer": 60}, "length-tells", "warning"),
        ({"remarks": {"no template": 250}, "remarked": 256}, "rows-unlike-the-model", "warning"),
        ({"sha256": "0" * 64}, "data-changed", "warning"),
    ],
)
def test_what_was_counted_in_the_rows_is_judged(changes, name, severity):
    alone(replace(healthy_dpo(), data=replace(FACTS, **changes)), name, severity)


def test_length_that_tells_says_which_way():
    longer = found(replace(healthy_dpo(), data=replace(FACTS, longer=330)))["length-tells"]
    assert "the longer one in 85 % of the pairs" in longer.found
    shorter = found(replace(healthy_dpo(), data=replace(FACTS, longer=60)))["length-tells"]
    assert "the shorter one in 85 % of the pairs" in shorter.found


def test_length_that_tells_in_a_handful_of_pairs_is_no_finding():
    """8 of 9 pairs: the 95 % interval reaches down to 0.57."""
    assert healthy(diagnose(replace(healthy_dpo(), data=replace(FACTS, longer=8, unequal=9))))


@pytest.mark.parametrize(
    ("rows", "prompts", "severity"), [(0, 4, "note"), (0, 60, "warning"), (6, 6, "warning"), (1, 1, "note")]
)
def test_held_out_rows_that_were_trained_on(rows, prompts, severity):
    held_out = replace(FACTS, sha256="e" * 64, seen_rows=rows, seen_prompts=prompts)
    alone(replace(healthy_dpo(), held_out=held_out), "held-out-leaks", severity)


def ids(*numbers):
    return np.array(numbers, np.int32)


def response(*numbers, terminal=True):
    return TokenResponse(ids(*numbers), np.ones(len(numbers), np.bool_), terminal)


def pair(chosen, rejected, *, prompt=(1, 5), where="row 1"):
    return TokenGroup(ids(*prompt), (response(*chosen), response(*rejected)), True, where)


def counted(groups, trained_on=(), tokenizer=None):
    tokenizer = tokenizer or tiny_tokenizer("bytes")
    return data_facts(groups, SUMMARY, "d" * 64, tokenizer, trained_on)


def test_rows_are_counted_against_one_another():
    base = pair((7, 8, 2), (9, 2), where="row 1")
    groups = [
        base,
        pair((7, 8, 2), (9, 2), where="row 2"),  # a duplicate
        replace(base),  # row 1 once more, as a weight of 2 gives it
        pair((9, 2), (7, 8, 2), where="row 3"),  # row 1 turned round
        pair((7, 8, 2), (9, 2), prompt=(1, 6), where="row 4"),  # another prompt
    ]
    facts = counted(groups)
    assert (facts.duplicates, facts.reversed_pairs) == (1, 1)
    assert (facts.longer, facts.unequal) == (4, 5)


def test_a_response_beside_the_pair_is_no_part_of_it():
    """Two pairs turned round, each with a third response of its own: still one contradiction, and no duplicate."""
    groups = [pair((7, 8, 2), (9, 2), where="row 1"), pair((9, 2), (7, 8, 2), where="row 2")]
    beside = [replace(group, responses=(*group.responses, response(5, i))) for i, group in enumerate(groups)]
    facts = counted(beside)
    assert (facts.duplicates, facts.reversed_pairs, facts.longer, facts.unequal) == (0, 1, 1, 2)


def test_pairs_that_differ_in_one_place():
    """20 tokens with one exchanged share 19 of 20; with three exchanged in a row 17 of 20."""
    same = list(range(10, 30))
    one, three = [*same], [*same]
    one[7] = 99
    three[7:10] = [97, 98, 99]
    assert counted([pair(same, one)]).near_equal == 1
    assert counted([pair(same, three)]).near_equal == 0
    assert counted([pair(same, [*same, 30])]).near_equal == 1  # 20 of 21


def test_repetition_is_the_share_of_four_grams_that_stood_there_before():
    """Of 1 2 3 4 1 2 3 4 1 2 3 4 nine four-grams four are different; of twelve numbers all nine."""
    assert repetition(ids(*[1, 2, 3, 4] * 3)) == pytest.approx(5 / 9)
    assert repetition(ids(*range(12))) == 0
    assert repetition(ids(1, 1, 1)) == 0
    assert loops(ids(*[1, 2] * 12))
    assert not loops(ids(*[1, 2] * 11))  # too short to tell
    assert not loops(ids(*range(100)))


def test_a_response_that_repeats_some_of_itself_goes_in_no_circles():
    """30 tokens and ten of them again: 7 of 37 four-grams stood there before."""
    text = ids(*range(30), *range(10))
    assert repetition(text) == pytest.approx(7 / 37)
    assert not loops(text)


def test_loops_in_the_data_are_counted_among_long_responses():
    facts = counted([pair([4, 5] * 20, range(40)), pair((4, 5, 4, 5), (6, 7))])
    assert (facts.loops, facts.long_responses) == (1, 2)


def test_held_out_groups_are_looked_up_in_the_training_data():
    trained = [pair((7, 2), (8, 2)), pair((7, 2), (8, 2), prompt=(1, 9))]
    held_out = [pair((7, 2), (8, 2)), pair((5, 2), (6, 2), prompt=(1, 9)), pair((7, 2), (8, 2), prompt=(1, 10))]
    facts = counted(held_out, trained)
    assert (facts.seen_rows, facts.seen_prompts) == (1, 2)
    assert counted(held_out).seen_prompts == 0


def test_prompts_without_the_template_are_remarked_on():
    tokenizer = tiny_tokenizer("bytes", chat_template=CHATML)
    bare = pair((7, 2), (8, 2), prompt=tokenizer("Hello")["input_ids"])
    facts = counted([bare] * 3, tokenizer=tokenizer)
    assert (list(facts.remarks.values()), facts.remarked) == ([3], 3)
    assert counted([bare]).remarks == {}


# --- models -----------------------------------------------------------------------------------------------------------

REFERENCE = ModelNow("reference", "runs/sft/policy", "a" * 64, "a" * 64)


@pytest.mark.parametrize(
    ("model", "name", "severity"),
    [
        (replace(REFERENCE, now="b" * 64), "stale-reference", "error"),
        (replace(REFERENCE, now="b" * 64, role="model"), "start-model-changed", "warning"),
        (replace(REFERENCE, now="b" * 64, doubt="an adapter is merged there"), "weights-not-compared", "note"),
        (replace(REFERENCE, now="b" * 64, doubt="an adapter", newer=True), "stale-reference", "warning"),
    ],
)
def test_weights_that_are_not_those_of_the_run(model, name, severity):
    finding = alone(replace(healthy_dpo(), models=(model,)), name, severity)
    value, _ = numbers(finding)[f"SHA-256 of {model.role}, recorded {'a' * 12}"]
    assert str(value).split(", ")[0] == "b" * 12
    assert ("written after the run began" in str(value)) == model.newer
    assert "runs/sft/policy" in finding.found
    assert healthy(diagnose(replace(healthy_dpo(), models=(REFERENCE,))))


@pytest.mark.parametrize(
    ("policy", "name", "severity"),
    [
        (written(20, 90), "length-drift", "warning"),
        (written(20, 20), "length-drift", "warning"),
        (written(20, 50, ended=0.5), "does-not-stop", "warning"),
        (written(20, 50, loops=0.3), "repeats-itself", "warning"),
        (written(20, 50, loops=0.8), "repeats-itself", "error"),
    ],
)
def test_what_the_policy_writes_is_held_against_its_reference(policy, name, severity):
    """The reference writes 50 to 52 tokens, nine in ten end, one in twenty goes in circles."""
    reference = written(20, 50, ended=0.9, loops=0.05)
    alone(replace(healthy_dpo(), samples=Samples(128, policy, reference, kl=5.0)), name, severity)


def test_samples_like_those_of_the_reference_tell_the_kl_of_the_objective():
    """Lengths 50, 51, 52, …: 20 of them average 50.95; 5 nats are 0.098 a token."""
    samples = Samples(128, written(20, 50), written(20, 50), kl=5.0)
    values = numbers(alone(replace(healthy_dpo(), samples=samples), "kl-of-samples", "note"))
    assert values["KL(π‖π_ref), nats per token"] == (pytest.approx(5 / 50.95), None)


def test_samples_without_a_reference():
    assert found(replace(healthy_sft(), samples=Samples(64, written(20, 50)))) == {}
    assert found(replace(healthy_sft(), samples=Samples(64, written(20, 50, ended=0.6)))) == {}
    sick = replace(healthy_sft(), samples=Samples(64, written(20, 50, ended=0.3)))
    assert "70 % of the policy's responses" in alone(sick, "does-not-stop", "warning").found


def test_a_policy_without_a_run_is_judged_by_what_it_says_now():
    """No start, no steps: the drift is that of the scores."""
    values = {**{name: value for name, value in dpo_line(STEPS).items() if name != "loss"}}
    record = RunRecord("policy", {"loss": "dpo"}, data=FACTS, scored=Scored(values, 400, 0.1))
    finding = alone(record, "both-fall", "note")
    assert numbers(finding)["log π − log π_ref of the rejected responses, nats"] == (pytest.approx(-9), None)
    apart = replace(record, scored=Scored(values, 400, 0.1, ("policy and reference are 2 nats apart",)))
    alone(apart, "models-do-not-belong-together", "warning")
    bias = replace(record, scored=Scored(values, 400, -0.6))
    assert "36 % of the variance" in alone(bias, "reward-is-length", "warning").found
    assert healthy(diagnose(replace(record, scored=Scored(values, 400, math.nan))))
    coin = replace(record, scored=Scored({**values, "rewards/accuracies": 0.5}, 600, 0.1))
    alone(coin, "accuracy-at-chance", "warning")


# --- records ----------------------------------------------------------------------------------------------------------


NEEDED = {"model": "start", "data": ["pairs.jsonl"], "output": "somewhere"}


def write_run(folder, record):
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"schema": 1, "config": NEEDED | CONFIG, **record.provenance}))
    lines = [record.evals[0], *record.steps, *record.evals[1:]]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_run_directory_is_read_as_it_was_written(tmp_path):
    record = read_run(write_run(tmp_path / "run", healthy_dpo()))
    assert (len(record.steps), len(record.evals), record.finished) == (40, 3, False)
    assert record.beta == BETA
    assert record.planned_steps() == 40
    assert record.eval_pairs == 400
    assert set(found(record)) == {"both-fall", "unfinished"}


def test_the_file_of_settings_counts_before_provenance(tmp_path):
    folder = write_run(tmp_path / "run", healthy_dpo())
    (folder / "config.yaml").write_text("model: m\ndata: [d]\noutput: o\nloss: dpo\nbeta: 0.5\nbatch_size: 10\n")
    assert read_run(folder).beta == 0.5


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "provenance.json").unlink(), "provenance.json is missing"),
        (lambda folder: (folder / "provenance.json").write_text("[1]"), "was not written by tokenq train"),
        (lambda folder: (folder / "metrics.jsonl").unlink(), "holds no step yet"),
        (lambda folder: (folder / "metrics.jsonl").write_text("{}\nx\n{}\n"), "line 2: not valid JSON"),
    ],
)
def test_what_is_no_run_is_refused(spoil, says, tmp_path):
    folder = write_run(tmp_path / "run", healthy_dpo())
    spoil(folder)
    with pytest.raises(UserError, match=says):
        read_run(folder)


def test_a_torn_last_line_and_values_that_are_null_do_no_harm(tmp_path):
    record = with_metric(healthy_dpo(), "rewards/margins", {40: None})
    folder = write_run(tmp_path / "run", replace(record, evals=record.evals[:1]))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 41, "loss":')
    read = read_run(folder)
    assert len(read.steps) == 40
    assert len(read.training("rewards/margins")) == 39
    diagnose(read)


def test_a_finding_is_plain_data():
    finding = diagnose(healthy_dpo())[0]
    plain = json.loads(json.dumps(finding.to_dict()))
    assert plain["name"] == "both-fall"
    assert plain["evidence"][0]["step"] == 40


@pytest.mark.parametrize(
    ("number", "text"), [(3, "3"), (12345.0, "12,345"), (0.69314718, "0.6931"), (-0.5, "−0.5"), (5e-7, "5e-07")]
)
def test_numbers_are_written_for_readers(number, text):
    assert shown(number) == text
    assert Evidence("loss", number, 7).line() == f"loss: {text} (step 7)"


def test_percentages():
    assert [percent(1, 1000), percent(0, 5), percent(2, 3)] == ["0.1 %", "0 %", "67 %"]


def test_the_last_evaluation_speaks_for_the_end():
    record = healthy_dpo()
    state = replace(record, evals=(*record.evals, eval_line(40, dpo_line(20)))).end()
    assert state is not None
    assert (state.step, state.where, state.pairs) == (40, "held-out data", 400)
    assert state.values["rewards/chosen"] == pytest.approx(-0.15)
