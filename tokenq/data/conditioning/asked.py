"""Prompts and examples with the levels that are asked for in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenq.data.bad_rows import BadRowsError, UnusableRow
from tokenq.data.conditioning.control import Control, Levels, control_of, lacks_levels, with_control
from tokenq.data.prompts import LoadedPrompts, Prompt
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Example

UNRATED = "response that is not rated on all that is conditioned on"
"""Under this, such responses are counted."""


def asked_levels(tokenizer: Any, condition: Mapping[str, float], policy: str) -> tuple[Control | None, dict[str, int]]:
    """Return what a policy can be asked for, and the levels that are asked for of all prompts.

    Args:
        tokenizer: the policy's.
        condition: NAME → level.
        policy: its name.

    Raises:
        UserError: the policy cannot be asked for anything, for this attribute, or for this level of it.
    """
    control = control_of(tokenizer)
    if control is None:
        if condition:
            raise UserError(
                f"--condition {next(iter(condition))}=… is given, and {policy} was not trained to be asked for it.",
                "Train a policy that was: tokenq train --loss sft --condition-on helpfulness verbosity.",
            )
        return None, {}
    return control, control.asked(condition)


def conditioned_prompts(loaded: LoadedPrompts, control: Control | None, fixed: Levels, bad_rows: str) -> LoadedPrompts:
    """Return prompts with the levels that are asked for in each: fixed ones, or those of its row.

    Args:
        loaded: the prompts.
        control: what the policy can be asked for; None where that is nothing.
        fixed: levels that are asked for whatever the rows say.
        bad_rows: "error" or "drop", for a row that lacks a level or has one that is not on the scale.

    Raises:
        BadRowsError: names the first such row.
        UserError: nothing is left.
    """
    if control is None:
        return loaded
    kept, bad = list[Prompt](), list[UnusableRow]()
    for place, prompt in enumerate(loaded.prompts):
        try:
            kept.append(replace(prompt, condition=_levels(prompt, control, fixed)))
        except BadRow as problem:
            bad.append(UnusableRow(place, prompt.where, problem))
    if bad and (bad_rows == "error" or not kept):
        raise BadRowsError(bad, loaded.rows)
    return LoadedPrompts(kept, loaded.rows, loaded.dropped + Counter(one.problem.reason for one in bad))


def _levels(prompt: Prompt, control: Control, fixed: Levels) -> dict[str, int]:
    inner = prompt.values.get("ratings")
    ratings: dict[str, Any] = {**prompt.values, **(inner if isinstance(inner, Mapping) else {})}
    found = control.rated(ratings, fixed)
    if found is None:
        raise lacks_levels(control, control.lacking(ratings, fixed), list(prompt.values))
    with_control(prompt.text, found)  # a conversation may have nowhere to ask in
    return found


def conditioned_examples(
    examples: Sequence[Example], control: Control | None, fixed: Levels, bad_rows: str
) -> tuple[Sequence[Example], Counter[str]]:
    """Return each response behind a prompt that asks for its own ratings, and what was left out, by reason.

    Where all levels are fixed, responses to a prompt stay together: a pair remains one.

    Args:
        examples: with the ratings of their responses.
        control: what the policy can be asked for; None where that is nothing.
        fixed: levels that are asked for whatever the ratings are.
        bad_rows: "error" or "drop", for a rating that is not on the scale.

    Raises:
        BadRowsError: names the first row with such a rating.
        UserError: no response is rated on all attributes.
    """
    if control is None:
        return examples, Counter()
    together = not control.lacking({}, fixed)
    found, bad, lost = list[Example](), list[UnusableRow](), Counter[str]()
    for place, example in enumerate(examples):
        try:
            if together:
                found.append(replace(example, prompt=with_control(example.prompt, fixed)))
            else:
                found += _apart(example, control, fixed, lost)
        except BadRow as problem:
            bad.append(UnusableRow(place, example.where, problem))
    if bad and bad_rows == "error":
        raise BadRowsError(bad, len(examples))
    if not found:
        lacking = ", ".join(control.attributes)
        first = f" {bad[0].where}: {bad[0].problem.detail}." if bad else ""
        raise UserError(
            f"No response is rated on all of {lacking}, which stand in the prompts.{first}",
            f"Give data with these ratings, or ask for fixed ones: --condition {control.attributes[0]}={control.high}.",
        )
    return found, lost + Counter(one.problem.reason for one in bad)


def _apart(example: Example, control: Control, fixed: Levels, lost: Counter[str]) -> list[Example]:
    found, several = [], len(example.responses) > 1
    for number, response in enumerate(example.responses, 1):
        levels = control.rated(response.ratings, fixed)
        if levels is None:
            lost[UNRATED] += 1
            continue
        where = f"{example.where}, response {number}" if several else example.where
        alone = replace(response, role="plain")
        prompt = with_control(example.prompt, levels)
        found.append(replace(example, prompt=prompt, responses=(alone,), is_pair=False, where=where, margin=None))
    return found
