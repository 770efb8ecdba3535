"""Branches from texts and from tokens: what both models say of a response, as `tokenq score` would write it.

What was written here keeps the tokens that were sampled; what was pasted is tokenised as every text is. Where the text
of sampled tokens would be tokenised in another way, that is said: whoever trains on the text trains on other tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tokenq.data.chat.rendering import render
from tokenq.data.encoding import ResponseText, pieces_of, text_of, whole_text
from tokenq.data.prompts import encode_prompts, given_prompts
from tokenq.errors import UserError
from tokenq.files import json_line
from tokenq.jobs.reader import Reader
from tokenq.models.tokenizer import ends_of
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.traces import TokenTrace
from tokenq.score.health import row_warnings
from tokenq.score.rows import ScoredRow
from tokenq.score.segments import marked
from tokenq.server.web.records import Branch, Origin

OTHER_TOKENS = (
    "its text is tokenised differently than it was written: training on the text trains on other tokens than these"
)
"""Said of a response whose tokens are not those of its text."""


class Place(NamedTuple):
    """Where a branch stands in its tree.

    Attributes:
        id: its name for machines.
        parent: the branch that it leaves; None for none.
        at: how many of its tokens are those of its parent.
        name: its name for people.
        origin: how it came to be.
    """

    id: str
    parent: str | None
    at: int
    name: str
    origin: Origin


def prompt_tokens(reader: Reader, prompt: str) -> tuple[int, ...]:
    """Return the tokens of a prompt: a user's turn where there is a chat template.

    Raises:
        UserError: it has none.
    """
    given = given_prompts(prompt, chat=reader.tokenizer.chat_template is not None)
    return encode_prompts(given, reader.tokenizer)[0]


def read_text(reader: Reader, prompt: str, response: str, place: Place) -> Branch:
    """Return a response that was given as a text.

    Raises:
        UserError: it has no tokens, or more than the models read.
    """
    rows, _ = reader.rows([reader.example(prompt, response)])
    group = rows[0].group
    trace = next(reader.traces(rows))[0]
    return _branch(trace, place, tuple(group.prompt_ids.tolist()), tuple(group.responses[0].ids.tolist()), response)


def read_tokens(reader: Reader, prompt: str, prompt_ids: Sequence[int], ids: Sequence[int], place: Place) -> Branch:
    """Return a response that was written token by token.

    Raises:
        UserError: it has no tokens, more than the models read, or the reference has tokens of its own.
    """
    if not ids:
        raise UserError("A response without tokens cannot be read.", "Let the policy write at least one.")
    text = text_of(reader.tokenizer, prompt_ids, ids)
    if reader.other_tokenizer is not None:
        return read_text(reader, prompt, text, place)
    row = _row(reader, prompt, prompt_ids, ids)
    trace = next(reader.traces(reader.readable([row])[0]))[0]
    if not _same_tokens(reader, prompt, text, trace.terminal, ids):
        trace = replace(trace, warnings=(*trace.warnings, OTHER_TOKENS))
    return _branch(trace, place, tuple(prompt_ids), tuple(ids), text)


def _row(reader: Reader, prompt: str, prompt_ids: Sequence[int], ids: Sequence[int]) -> ScoredRow:
    """Return tokens as a row to be read, as it would be made of their text if that gave these tokens."""
    assert reader.pair is not None  # a reward model writes nothing
    ended = ids[-1] in ends_of(reader.pair.models.policy, reader.tokenizer, ())
    own = TokenResponse(np.array(ids, np.int32), np.ones(len(ids), np.bool_), terminal=ended)
    group = TokenGroup(np.array(prompt_ids, np.int32), (own,), False, "response")
    pieces = pieces_of(reader.tokenizer, prompt_ids, ids)
    ends = np.cumsum([*map(len, pieces)]).astype(np.int32)
    said = ResponseText(_text_before(reader, prompt, prompt_ids), "".join(pieces), ends)
    (marked_group,) = marked([group], reader.parts, reader.tokenizer)
    warnings = row_warnings(group, reader.tokenizer)
    return ScoredRow("response", marked_group, (said,), reader.example(prompt, said.text), warnings)


def _text_before(reader: Reader, prompt: str, prompt_ids: Sequence[int]) -> str:
    """Return the text before a response, as it is for one that was pasted: no BOS where the text has none."""
    if prompt_tokens(reader, prompt) != tuple(prompt_ids):  # the first token of the response holds the prompt's end
        return whole_text(reader.tokenizer, prompt_ids)
    example = replace(reader.example(prompt, ""), responses=())
    return render(example, reader.tokenizer).prompt


def _same_tokens(reader: Reader, prompt: str, text: str, terminal: bool, ids: Sequence[int]) -> bool:
    """Return whether the text of a response has these tokens; EOS, which every text is given, does not count."""
    try:
        rows, _ = reader.rows([reader.example(prompt, text)])
    except UserError:  # a text of nothing, or one that goes on behind an end
        return False
    found = rows[0].group.responses[0].ids.tolist()
    return bool(found[: len(ids)] == list(ids) and len(found) <= len(ids) + 1)


def _branch(trace: TokenTrace, place: Place, prompt_ids: tuple[int, ...], ids: tuple[int, ...], text: str) -> Branch:
    trace = replace(trace, id=place.name)
    line = json_line(trace.to_dict()).decode().rstrip("\n")
    total = trace.totals.implicit_reward
    return Branch(*place, prompt_ids, ids, text, trace.terminal, total, trace.warnings, line)
