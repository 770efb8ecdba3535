"""Episodes in tokens: actions as they were sampled, and what was said between them as the dialogue writes it."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np

from tokenq.data.dialogue import Dialogue, DialogueState, open_dialogue
from tokenq.data.encoding import Encoder, ResponseText, pieces_of, text_of
from tokenq.data.turns import BadRow
from tokenq.records.examples import Action, Example, Message, Response, TokenGroup, TokenResponse


def is_acted(example: Example) -> bool:
    """Return whether the responses of an example are what was done in an environment."""
    contents = [one.content for one in example.responses if not isinstance(one.content, str)]
    return any(isinstance(turn, Action) for turns in contents for turn in turns)


class Acting:
    """Makes tokens of episodes.

    Args:
        encoder: of the tokenizer.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._dialogue = cache(
            lambda instructions, tools: open_dialogue(encoder.tokenizer, instructions, json.loads(tools))
        )

    def group(self, example: Example) -> TokenGroup:
        """Return an example of episodes that begin alike as a group.

        Raises:
            BadRow: the chat template writes the past anew, so that an episode is no single sequence.
        """
        dialogue, beginning = self._beginning(example)
        start = dialogue.start(beginning)
        responses = tuple(self._response(dialogue, start, one) for one in example.responses)
        return TokenGroup(np.array(start.ids, np.int32), responses, example.is_pair, example.where, example.margin)

    def texts(self, example: Example, group: TokenGroup) -> tuple[ResponseText, ...]:
        """Return the positions of the tokens of a group in their texts."""
        dialogue, beginning = self._beginning(example)
        before, found = dialogue.start(beginning).text, []
        for one in group.responses:
            pieces = pieces_of(self._encoder.tokenizer, group.prompt_ids.tolist(), one.ids.tolist())
            found.append(ResponseText(before, "".join(pieces), np.cumsum([*map(len, pieces)]).astype(np.int32)))
        return tuple(found)

    def _beginning(self, example: Example) -> tuple[Dialogue, tuple[Message, ...]]:
        assert not isinstance(example.prompt, str)  # the layout gives turns
        system = [turn.content for turn in example.prompt[:1] if turn.role == "system"]
        tools = json.dumps(example.context.get("tools") or [])
        return self._dialogue("".join(system), tools), example.prompt[len(system) :]

    def _response(self, dialogue: Dialogue, state: DialogueState, response: Response) -> TokenResponse:
        ids, mask = list[int](), list[bool]()
        for action, answer in _turns(response):
            done, after = self._done(dialogue, state, action, answer or _PROBE)
            if after.starts_over and answer:
                said = "the chat template writes the past of an episode anew, so that it is no single sequence"
                raise BadRow("an episode whose past is rewritten", said)
            observed = after.observation_ids if answer else ()
            ids += [*done, *observed]
            mask += [True] * len(done) + [False] * len(observed)
            state = after
        ended = ids[-1] == self._encoder.eos
        return TokenResponse(np.array(ids, np.int32), np.array(mask, np.bool_), ended, response.role, given=response)

    def _done(
        self, dialogue: Dialogue, state: DialogueState, action: Action, answer: tuple[Message, ...]
    ) -> tuple[tuple[int, ...], DialogueState]:
        """Return an action as it was sampled where that is its text in this tokenizer, else as its text is written.

        With it comes the conversation in front of the next one.
        """
        written, text = dialogue.action_ids(action.content), action.content
        own = bool(action.token_ids) and text_of(self._encoder.tokenizer, state.ids, action.token_ids) == text
        options = [action.token_ids, written] if own else [written]
        found = [(done, dialogue.extend(state, done, text, answer)) for done in options]
        return next((each for each in found if not each[1].starts_over), found[0])


_PROBE = (Message("user", "."),)
"""What is said after the last action, to see whether what ended it ends a turn."""


def _turns(response: Response) -> Iterator[tuple[Action, tuple[Message, ...]]]:
    """Yield every action with what was said after it."""
    turns = [turn for turn in response.content if isinstance(turn, Message)]
    starts = [place for place, turn in enumerate(turns) if isinstance(turn, Action)]
    for start, end in pairwise([*starts, len(turns)]):
        action = turns[start]
        assert isinstance(action, Action)
        yield action, tuple(turns[start + 1 : end])
