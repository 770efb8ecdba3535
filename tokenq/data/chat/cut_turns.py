"""Which turns of a conversation lose tokens where a row is cut to a limit of length."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tokenq.data.chat.template import Write, template_options, template_writer
from tokenq.data.chat.thoughts import with_thoughts_in_place
from tokenq.data.encoding import Encoder, Ids, common_tokens
from tokenq.data.turns import BadRow
from tokenq.records.examples import Example, Message, TokenGroup


def cut_turns(example: Example, whole: TokenGroup, cut: TokenGroup, encoder: Encoder) -> Counter[str]:
    """Return how many turns of each role lost tokens, all of them or some.

    A prompt loses its first turns, a response its last. Where the template rewrites the past, a turn is taken to begin
    where the texts with and without it part.

    Args:
        example: a conversation, or text, which has no turns.
        whole: its group.
        cut: the same within the limits.
        encoder: texts to ids.
    """
    found: Counter[str] = Counter()
    if isinstance(example.prompt, str):
        return found
    options = template_options(encoder.tokenizer, example.context)
    write = template_writer(encoder.tokenizer, options)
    asked = with_thoughts_in_place(example.prompt, options["chat_template"])
    lost = len(whole.prompt_ids) - len(cut.prompt_ids)
    if lost:
        begins = [len(encoder.prefix), *_ends(asked, whole.prompt_ids, write, encoder)]
        reached = len(encoder.prefix) + lost
        found.update(turn.role for turn, begin in zip(asked, begins, strict=False) if begin < reached)
    for given, one, left in zip(example.responses, whole.responses, cut.responses, strict=True):
        if len(left.ids) < len(one.ids) and not isinstance(given.content, str):
            turns = (*asked, *with_thoughts_in_place(given.content, options["chat_template"]))
            ids = np.concatenate([whole.prompt_ids, one.ids])
            ends = [*_ends(turns, ids, write, encoder)[len(asked) : -1], len(ids)]
            kept = len(whole.prompt_ids) + len(left.ids)
            found.update(turn.role for turn, end in zip(given.content, ends, strict=True) if end > kept)
    return Counter({f"{role}_turns_cut": count for role, count in found.items()})


def _ends(turns: Sequence[Message], ids: Ids, write: Write, encoder: Encoder) -> list[int]:
    """Return for each turn how many of the tokens of a conversation there are up to its end."""
    texts = [_text(write, turns[: place + 1]) for place in range(len(turns))]
    table = encoder.encode(texts)
    return [common_tokens(table[text].ids, ids) for text in texts]


def _text(write: Write, turns: Sequence[Message]) -> str:
    try:
        return write(turns, False)
    except BadRow:  # some templates take no conversation without a turn of the user
        return ""
