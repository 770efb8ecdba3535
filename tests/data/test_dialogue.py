"""The tokens of a conversation that goes on: prefixes at every turn, and starts over where the past is rewritten."""

import pytest
from toy_tokenizers import CHATML, HEADERS, THINKING, bytes_tokenizer

from tokenq.data.dialogue import open_dialogue
from tokenq.errors import UserError
from tokenq.records.examples import Message

TOOLS = "{% if tools %}{{ '<|im_start|>tools\\n' + tools[0].function.name + '<|im_end|>\\n' }}{% endif %}" + CHATML
SCHEMA = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def sampled(tokenizer, text):
    return tuple(tokenizer([text], add_special_tokens=False)["input_ids"][0])


def test_a_conversation_grows_by_what_stands_behind_the_action():
    tokenizer = bytes_tokenizer(bos="<bos>", eos="<|im_end|>", chat_template=CHATML)
    dialogue = open_dialogue(tokenizer, "Play.")
    first = dialogue.start("A door.")
    begun = "<bos><|im_start|>system\nPlay.<|im_end|>\n<|im_start|>user\nA door.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(first.ids) == begun
    assert first.ids == first.observation_ids
    second = dialogue.extend(first, sampled(tokenizer, "open it<|im_end|>"), "open it", "It is open.")
    between = "\n<|im_start|>user\nIt is open.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(second.observation_ids) == between
    assert tokenizer.decode(second.ids) == begun + "open it<|im_end|>" + between
    assert not second.starts_over
    # An action that was cut is closed by what follows; blanks at its end stay as they were sampled.
    third = dialogue.extend(second, sampled(tokenizer, "go "), "go ", "Where?")
    assert tokenizer.decode(third.observation_ids).startswith("<|im_end|>\n<|im_start|>user\nWhere?")
    assert third.ids[: len(second.ids) + 3] == (*second.ids, *sampled(tokenizer, "go "))


def test_a_sampled_token_that_says_nothing_does_not_close_an_action():
    tokenizer = bytes_tokenizer(bos="<bos>", eos="<|im_end|>", chat_template=CHATML)
    dialogue = open_dialogue(tokenizer)
    first = dialogue.start("A door.")
    cut = dialogue.extend(first, sampled(tokenizer, "go<bos>"), "go", "Where?")
    assert not cut.starts_over
    assert tokenizer.decode(cut.ids[len(first.ids) :]).startswith("go<bos><|im_end|>\n<|im_start|>user\nWhere?")
    ended = dialogue.extend(first, sampled(tokenizer, "go<bos><|im_end|>"), "go", "Where?")
    assert tokenizer.decode(ended.ids[len(first.ids) :]).startswith("go<bos><|im_end|>\n<|im_start|>user\nWhere?")


def test_blanks_that_the_template_cuts_off_stay_as_they_were_sampled():
    tokenizer = bytes_tokenizer(eos="<|eot|>", chat_template=HEADERS.replace("{{ bos_token }}", ""))
    dialogue = open_dialogue(tokenizer)
    first = dialogue.start("Hi.")
    second = dialogue.extend(first, sampled(tokenizer, " go \n<|eot|>"), " go \n", "Well?")
    assert tokenizer.decode(second.ids) == "[user]Hi.<|eot|>[assistant] go \n<|eot|>[user]Well?<|eot|>[assistant]"


def test_a_template_that_drops_thoughts_starts_over():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=THINKING)
    dialogue = open_dialogue(tokenizer)
    first = dialogue.start("A door.")
    assert tokenizer.decode(first.ids).endswith("<think>")
    second = dialogue.extend(first, sampled(tokenizer, "hm</think>go<|im_end|>"), "hm</think>go", "Well?")
    assert second.starts_over
    assert second.ids == second.observation_ids
    assert "assistant\ngo<|im_end|>\n<|im_start|>user\nWell?" in tokenizer.decode(second.ids)


def test_without_a_template_actions_stand_behind_a_mark():
    tokenizer = bytes_tokenizer(bos="<bos>", eos="<eos>")
    dialogue = open_dialogue(tokenizer, "Play.")
    first = dialogue.start("A door.")
    assert tokenizer.decode(first.ids) == "<bos>Play.\nA door.\n> "
    second = dialogue.extend(
        first, dialogue.action_ids("open"), "open", (Message("tool", "Open."), Message("user", "!"))
    )
    assert tokenizer.decode(second.ids) == "<bos>Play.\nA door.\n> open<eos>\nOpen.\n!\n> "
    cut = dialogue.extend(second, sampled(tokenizer, "go"), "go", "Well?")
    assert tokenizer.decode(cut.observation_ids) == "<eos>\nWell?\n> "


def test_tools_are_written_or_refused():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=TOOLS)
    dialogue = open_dialogue(tokenizer, tools=[SCHEMA])
    assert "tools\nlook" in tokenizer.decode(dialogue.start("A door.").ids)
    asks = TOOLS.replace(
        "{% for m", "{% if messages[-1].role == 'tool' %}{{ messages[-2].tool_calls[0] }}{% endif %}{% for m"
    )
    for template in (CHATML, None, CHATML + "{{ tools and raise_exception('no tools') }}", asks):
        with pytest.raises(UserError, match="ools cannot be written"):
            open_dialogue(bytes_tokenizer(chat_template=template), tools=[SCHEMA])


@pytest.mark.parametrize("refusal", ["{{ raise_exception('no system') if messages[0].role == 'system' }}", ""])
def test_instructions_stand_before_the_first_observation_where_no_turn_of_the_system_is_written(refusal):
    template = refusal + CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=template)
    first = open_dialogue(tokenizer, "Play.").start("A door.")
    assert tokenizer.decode(first.ids) == "<|im_start|>user\nPlay.\n\nA door.<|im_end|>\n<|im_start|>assistant\n"
