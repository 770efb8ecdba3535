"""Which token belongs to which segment: tokens that begin one, turns with names, and what is refused."""

import numpy as np
import pytest
from toy_tokenizers import CHATML, bytes_tokenizer, words_tokenizer

from tokenq.data.chat.messages import as_turns
from tokenq.data.stretches.segments import Segments, refuse_absent, with_segments
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError
from tokenq.records.examples import Example, Message, Response, TokenGroup, TokenResponse

WORDS = words_tokenizer("draw a red cat <image> <words> 0 1 2")
NAMES = ("words", "image")


def group(*texts, mask=None):
    """One pair of responses to "draw", by the words of its texts."""
    responses = []
    for role, text in zip(("chosen", "rejected"), texts, strict=False):
        ids = np.array(WORDS(text)["input_ids"], np.int32)
        own = np.ones(len(ids), np.bool_) if mask is None else np.array(mask, np.bool_)
        responses.append(TokenResponse(ids, own, True, role))
    return TokenGroup(np.array([7], np.int32), tuple(responses), len(texts) == 2, "data.jsonl, row 3")


def numbers(found):
    return [one.token_columns["segments"].tolist() for one in found.responses]


def test_a_token_begins_a_segment_that_goes_on_to_the_next_start():
    segments = Segments.of(NAMES, {"image": "<image>", "words": "<words>"}, WORDS)
    (found,) = with_segments([group("red cat <image> 0 1 <words> a 2", "red cat")], segments)
    assert numbers(found) == [[0, 0, 1, 1, 1, 0, 0, 0], [0, 0]]
    assert found.responses[0].token_columns["segments"].dtype == np.int64


def test_a_token_that_the_policy_did_not_write_begins_nothing():
    segments = Segments.of(NAMES, {"image": "<image>"}, WORDS)
    (found,) = with_segments([group("red <image> <image> 0", mask=[1, 0, 1, 1])], segments)
    assert numbers(found) == [[0, 0, 1, 1]]


def talk(*turns):
    """A conversation in OpenAI's form after a question, in the tokens of a chat template."""
    turns = as_turns([{"role": role, "content": text, **more} for role, text, more in turns])
    data = tokenize(
        [Example((Message("user", "q"),), (Response(turns),), False, "data.jsonl, row 3")],
        bytes_tokenizer(eos="<|im_end|>", chat_template=CHATML),
        max_length=None,
    )
    return data.groups[0]


ASKED = ("user", "go on", {})


def test_turns_of_the_assistant_are_segments_by_their_names():
    one, two = {"name": "words"}, {"name": "image"}
    (found,) = with_segments([talk(("assistant", "cat", one), ASKED, ("assistant", "01", two))], Segments(NAMES))
    (response,) = found.responses
    own = response.token_columns["segments"][response.mask]
    assert own.tolist() == [0, 0, 0, 0, 1, 1, 1]  # each with its <|im_end|>


def test_an_unnamed_turn_beside_named_ones_is_of_the_first_segment():
    turns = [("assistant", "01", {"name": "image"}), ASKED, ("assistant", "cat", {})]
    (response,) = with_segments([talk(*turns)], Segments(NAMES))[0].responses
    assert response.token_columns["segments"][response.mask].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_a_name_is_not_written_by_a_template_and_tells_no_turns_apart():
    named, plain = Message("assistant", "a", segment="image"), Message("assistant", "a")
    assert named == plain
    assert named.to_dict() == plain.to_dict()
    assert repr(named) == repr(plain)


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ({"imge": "<image>"}, "Unknown segment 'imge'"),
        ({"image": "<picture>"}, "'<picture>' is unknown to the tokenizer"),
        ({"image": "red cat"}, "'red cat' is 2 tokens to the tokenizer"),
        ({"image": "<image>", "words": "<image>"}, "Segments image and words both begin with '<image>'"),
    ],
)
def test_starts_that_cannot_be_meant(starts, said):
    with pytest.raises(UserError, match=said):
        Segments.of(NAMES, starts, WORDS)


def test_a_start_near_a_token_that_there_is():
    with pytest.raises(UserError, match="Did you mean '<think>'"):
        Segments.of(NAMES, {"image": "<thnk>"}, WORDS)


def test_a_name_that_is_no_segment():
    with pytest.raises(UserError, match=r"row 3: a turn of the assistant is named 'imge', which is no segment") as told:
        with_segments([talk(("assistant", "01", {"name": "imge"}))], Segments(NAMES))
    assert "Did you mean 'image'" in told.value.hint


def test_a_start_amid_a_turn_of_another_segment():
    segments = Segments.of(NAMES, {"image": "<think>"}, bytes_tokenizer())
    turn = ("assistant", "cat<think>0", {"name": "words"})
    with pytest.raises(UserError, match="row 3: segments words and image overlap"):
        with_segments([talk(turn)], segments)


def test_rows_without_a_segment_are_counted_and_refused_where_none_has_it():
    segments, said = Segments.of(NAMES, {"image": "<image>"}, WORDS), []
    whole, half, none = group("a <image> 0", "a <image> 1"), group("a <image> 0", "a"), group("a", "red")
    refuse_absent(with_segments([whole, half, half, none], segments), NAMES, said.append)
    assert said == ["warning: 2 of 4 rows have segment 'image' on one side alone"]
    with pytest.raises(UserError, match="segment 'image' on both sides: 1 of 2 rows have it on one"):
        refuse_absent(with_segments([half, none], segments), NAMES, said.append)
    with pytest.raises(UserError, match="No row has a token of segment 'image' at all"):
        refuse_absent(with_segments([none], segments), NAMES, said.append)
