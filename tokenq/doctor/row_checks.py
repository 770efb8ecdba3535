"""Rows against other rows: repeated, contradictory, trained on, equal, going in circles, or not those of the run.

The checks judge what `tokenq.doctor.data_checks.data_facts` counted; without the rows most of them find nothing.
"""

from collections.abc import Mapping

from tokenq.doctor.data_checks import EQUAL
from tokenq.doctor.finding import Evidence, Finding, Severity, percent
from tokenq.runs.record import RunRecord

REPEATED = 0.1
"""Share of rows that are there already, from which epochs are not what they say; corpora of the web hold 3 to 14 % near
duplicates (arXiv 2107.06499)."""

LEAKED = 0.01
"""Share of held-out rows that were trained on, from which held-out numbers flatter."""

LEAKED_PROMPTS = 0.1
"""The same for prompts alone: they tell less."""

CONTRADICTED = 0.01
"""Share of pairs that stand in both orders; more says that labels were mixed up."""

SAME = 0.01
"""Share of pairs without a difference from which the file was made wrongly; single ones happen in sampling."""

EDITS = 0.5
"""Share of pairs that differ in one place from which the data teaches edits."""

CIRCLES = 0.05
"""Share of responses that go in circles from which a policy learns to."""

UNLIKE = 0.5
"""Share of rows of which something must be said, from which it is no matter of single rows."""


def duplicates(record: RunRecord) -> Finding | None:
    """Return a finding where rows repeat."""
    facts = record.data
    if facts is None or not facts.duplicates:
        return None
    groups = int(facts.summary["groups"])
    return Finding(
        "duplicate-rows",
        "warning" if facts.duplicates > REPEATED * groups else "note",
        f"{percent(facts.duplicates, groups)} of the rows stand in the data before: they count twice, and an epoch "
        "is more than one.",
        (Evidence("rows that an earlier one repeats", facts.duplicates), Evidence("groups", groups)),
        "Leave them out, or weigh whole sources (FILE@2) where more weight is meant.",
    )


def leaked(record: RunRecord) -> Finding | None:
    """Return a finding where held-out rows were trained on."""
    facts = record.held_out
    if facts is None or not facts.seen_prompts:
        return None
    groups = int(facts.summary["groups"])
    many = facts.seen_rows > LEAKED * groups or facts.seen_prompts > LEAKED_PROMPTS * groups
    return Finding(
        "held-out-leaks",
        "warning" if many else "note",
        f"{percent(facts.seen_prompts, groups)} of the held-out prompts stand in the training data, "
        f"{percent(facts.seen_rows, groups)} with the same responses: held-out numbers are better than they should be.",
        (
            Evidence("held-out groups", groups),
            Evidence("with a prompt that was trained on", facts.seen_prompts),
            Evidence("trained on as they are", facts.seen_rows),
        ),
        "Split by prompt (--eval-size does), or take the common ones out of --eval-data.",
    )


def contradictions(record: RunRecord) -> Finding | None:
    """Return a finding where the same two responses stand in both orders."""
    facts = record.data
    if facts is None or not facts.reversed_pairs:
        return None
    pairs = int(facts.summary["pairs"])
    return Finding(
        "contradictory-pairs",
        "warning" if facts.reversed_pairs > CONTRADICTED * pairs else "note",
        f"{percent(facts.reversed_pairs, pairs)} of the pairs stand in the data with their labels exchanged too: no "
        "policy can satisfy both, and the loss stays near ln 2 on them.",
        (Evidence("pairs that contradict an earlier one", facts.reversed_pairs), Evidence("pairs", pairs)),
        "Decide or leave out both; with labels known to be noisy use --loss cdpo --loss-options label_smoothing=SHARE.",
    )


def equal_pairs(record: RunRecord) -> Finding | None:
    """Return a finding where chosen and rejected were the same."""
    dropped: Mapping[str, int] = record.summary.get("dropped") or {}
    count, rows = int(dropped.get(EQUAL, 0)), int(record.summary.get("rows", 0))
    if not count or not rows:
        return None
    return Finding(
        "chosen-equals-rejected",
        "warning" if count > SAME * rows else "note",
        f"In {percent(count, rows)} of the rows chosen and rejected are the same tokens. They say nothing and were "
        "left out; they also say that the file may not be what it should be.",
        (Evidence("such rows", count), Evidence("rows", rows)),
        "Look how the pairs were made: a judge that was shown one response twice, or columns that were mixed up.",
    )


def edits(record: RunRecord) -> Finding | None:
    """Return a note where most pairs differ in one short place."""
    facts = record.data
    pairs = int(facts.summary["pairs"]) if facts else 0
    if facts is None or facts.near_equal <= EDITS * pairs:
        return None
    return Finding(
        "pairs-nearly-equal",
        "note",
        f"{percent(facts.near_equal, pairs)} of the pairs differ in less than a tenth of their tokens. What they "
        "share is pushed up and down at once, and chosen log-probs fall easily on such data.",
        (Evidence("pairs that share nine tenths", facts.near_equal), Evidence("pairs", pairs)),
        "Watch logps/chosen; a larger --beta or a smaller --learning-rate holds them.",
    )


def circles(record: RunRecord) -> Finding | None:
    """Return a finding where the data itself says things again and again."""
    facts = record.data
    if facts is None or facts.loops <= CIRCLES * facts.long_responses:
        return None
    return Finding(
        "data-repeats-itself",
        "warning",
        f"{percent(facts.loops, facts.long_responses)} of the responses in the data go in circles.",
        (
            Evidence("responses that repeat half of their four-grams", facts.loops),
            Evidence("responses long enough to tell", facts.long_responses),
        ),
        "Leave such responses out, at least among the chosen ones.",
    )


def remarks(record: RunRecord) -> Finding | None:
    """Return a finding where most rows are not what the tokenizer's template makes of a prompt."""
    facts = record.data
    found = {what: n for what, n in facts.remarks.items() if n > UNLIKE * facts.remarked} if facts else {}
    if facts is None or not found:
        return None
    severity: Severity = "warning"
    return Finding(
        "rows-unlike-the-model",
        severity,
        f"Of most rows is to be said: {'; '.join(found)}.",
        tuple(Evidence(f"rows of {facts.remarked} looked at", n) for n in found.values()),
        "Train with --style chat where the model is used with its chat template; leave it where it is a base model "
        "whose tokenizer happens to bring one.",
    )


def changed(record: RunRecord) -> Finding | None:
    """Return a finding where the data is no longer that of the run."""
    pairs = (("data", record.data), ("eval_data", record.held_out))
    found = [
        (name, facts.sha256, str(told["sha256"]))
        for name, facts in pairs
        if facts is not None and (told := record.provenance.get(name)) and told["sha256"] != facts.sha256
    ]
    if not found:
        return None
    return Finding(
        "data-changed",
        "warning",
        f"What {' and '.join(name for name, _, _ in found)} name is no longer what the run read: findings about rows "
        "are about other rows, and the run cannot be repeated.",
        tuple(Evidence(f"sha256 of {name}, recorded {told[:12]}", now[:12]) for name, now, told in found),
        "Restore the files, or note their new state; keep data of finished runs unchanged.",
    )
