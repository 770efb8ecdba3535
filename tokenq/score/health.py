"""What may be wrong with a pair of models or a row: said, so that a number is not read for what it is not."""

from collections.abc import Sequence
from typing import Any

from tokenq.data.encoding import whole_text
from tokenq.data.turns import common_length
from tokenq.records.examples import TokenGroup
from tokenq.records.traces import TokenTrace

FAR_APART = 0.5
"""Mean KL(π‖π_ref) of a position, in nats, from which a reference is doubted: preference training moves a model by a
few hundredths (docs/experiments.md), another model or a missing template by more."""

_SAID = "tokenq"


def row_warnings(group: TokenGroup, tokenizer: Any) -> tuple[str, ...]:
    """Return the warnings about a row before it is scored.

    Args:
        group: its tokens.
        tokenizer: a tokenizer of `transformers`.
    """
    said = []
    if not all(response.terminal for response in group.responses):
        said.append("a response was cut or has no EOS: its totals lack the credit of its end")
    if tokenizer.chat_template is not None and _mark(tokenizer) not in whole_text(tokenizer, group.prompt_ids.tolist()):
        said.append("the tokenizer has a chat template, and this prompt does not use it")
    return tuple(said)


def _mark(tokenizer: Any) -> str:
    """Return what the template of a tokenizer writes into every prompt: as a rule the header of the assistant's turn.

    It is found by applying the template: some marks are special tokens, some are plain text, some stand in front of the
    user's words alone. "" where that cannot be told.
    """
    from jinja2 import TemplateError

    turn = [{"role": "user", "content": _SAID}]
    try:
        bare, headed = (
            str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=header))
            for header in (False, True)
        )
    except (TemplateError, ValueError, TypeError):
        return ""
    before, _, after = headed.partition(_SAID)
    header = headed[common_length(bare, headed) :]
    marks = (mark.strip().partition("\n")[0] for mark in (header, after, before))
    return next((mark for mark in marks if mark), "")


def pair_warnings(traces: Sequence[TokenTrace]) -> list[str]:
    """Return the warnings about the pair of models that a run's traces give.

    Args:
        traces: some traces of the run.
    """
    kls = [kl for trace in traces for kl in trace.tokens.columns["kl"].tolist() if kl == kl]
    if not kls:
        return []
    mean = sum(kls) / len(kls)
    if mean <= FAR_APART:
        return []
    return [
        f"policy and reference are {mean:.2f} nats per token apart (KL), more than preference training does: "
        "is this the model that the policy was trained from, with the same chat template?"
    ]
