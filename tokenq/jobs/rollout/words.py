"""What is said of a round on the console: what it came to, and what is wrong with it."""

from collections.abc import Mapping

Numbers = Mapping[str, float | None]


NOTHING = {"pairs": "gives no pair", "responses": "gives no advantage", "weights": "gives no weight"}
"""What a round comes to that teaches nothing, by what is counted."""


def said_of(number: int, rounds: int, numbers: Numbers, noun: str) -> list[str]:
    """Return the lines of a round: what it came to, and what is wrong with it.

    Args:
        number: of the round.
        rounds: how many there are.
        numbers: of the round, as `metrics.jsonl` has them.
        noun: what is counted.
    """
    shown = {name: _shown(numbers[f"round/{name}"]) for name in ("reward", noun, "prompts", "length", "kl")}
    lines = [
        f"round {number} of {rounds}: reward {shown['reward']}, {shown[noun]} {noun} from "
        f"{shown['prompts']} prompts, {shown['length']} tokens per response, KL {shown['kl']}"
    ]
    if (effective := numbers.get("round/effective_samples")) is not None:
        lines += _weighing(number, effective, numbers["round/compared"])
    if not numbers[f"round/{noun}"]:
        lines.append(f"warning: round {number} {NOTHING[noun]}{_reason(numbers)}; nothing is learnt from it")
    if numbers.get("round/beyond_optimism_limit"):
        lines.append(f"warning: round {number}: {_beyond(numbers)}")
    return lines


_FEW = 2.0
"""Effective responses to a prompt below which a round imitates single ones."""


def _weighing(number: int, effective: float, compared: float | None) -> list[str]:
    """Return what is said of weights: for how many of the responses to a prompt they speak."""
    said = f"the weights of a prompt speak for {effective:.2f} of its {_shown(compared)} responses"
    if effective >= _FEW:
        return [f"round {number}: {said}"]
    hint = "more --samples, fewer attributes, or levels that the policy reaches, would spread them"
    return [f"warning: round {number}: {said}: nearly all is learnt from single ones; {hint}"]


def _reason(numbers: Numbers) -> str:
    """Return why nothing is learnt from a round, where its judge is why."""
    if numbers["round/unusable"] == 1:
        return ": the judge gave no number to any response"
    return ": the judge gave all responses to a prompt one worth" if numbers["round/ties"] == 1 else ""


def _beyond(numbers: Numbers) -> str:
    asked = numbers["round/optimistic_prompts"] or 0.0
    beyond = (numbers["round/beyond_optimism_limit"] or 0.0) * asked
    return (
        f"in {beyond:.0f} of {asked:.0f} prompts a calibration response wins too few pairs for the loss to have a "
        "minimum, and more training lowers it for ever; take a smaller --loss-options alpha"
    )


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
