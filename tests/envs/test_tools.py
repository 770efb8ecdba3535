"""Tools: what is called is called, what is written badly is said and counted, what hangs or says too much is cut."""

import time

import pytest

from tokenq.envs.adapters.tool_calls import calls_in
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.records.examples import Message

ROW = find_environment("tools")

TOOLS = '''
import time
from os.path import join

COUNT = []

def greet(name: str, times: int = 1) -> str:
    """Greet somebody.

    Args:
        name: Who.
        times: How often.
    """
    return "Hello, " + name + "!" * times

def hang(seconds: float) -> str:
    """Wait.

    Args:
        seconds: How long.
    """
    end = time.time() + seconds
    while time.time() < end:
        time.sleep(0.001)

def shout() -> list[str]:
    """Say much."""
    return ["a" * 500]

def fail() -> None:
    """Fail."""
    raise LookupError("nothing there")

def _hidden():
    pass
'''


def tagged(text):
    return f"<tool_call>\n{text}\n</tool_call>"


def made(**options):
    return guarded(ROW.make(options))


def test_a_question_is_answered_with_two_calls():
    world = made()
    asked = world.reset(0)
    a, b, c = (
        int(part) for part in asked.replace("(", " ").replace(")", " ").replace("?", " ").split() if part.isdigit()
    )
    step = world.step(tagged(f'{{"name": "add", "arguments": {{"a": {a}, "b": {b}}}}}'))
    assert step.observation == (Message("tool", str(a + b), tool_call_id="call_0", name="add"),)
    assert step[1:] == (0.0, False, False, {"calls": 1})
    step = world.step(f'{{"name": "multiply", "arguments": {{"a": {a + b}, "b": {c}}}}}')
    assert step.observation[0].content == str((a + b) * c)
    last = world.step(f"It is {(a + b) * c}.")
    assert last[1:] == (1.0, True, False, {"success": True})
    assert world.step("It is 1.")[1:] == (0.0, True, False, {"success": False})
    assert world.reset(200) == asked
    assert world.reset(1) != asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (tagged('{"name": "add", "arguments": {"a": 1,}}'), "This tool call is not valid JSON:"),
        ('<tool_call>{"name": "add"', "This tool call is not valid JSON:"),
        (tagged("[1]"), "A tool call is an object such as"),
        (tagged('{"name": "add", "arguments": "{"}'), "The arguments are not valid JSON:"),
        (tagged('{"name": "add", "arguments": [1]}'), "The arguments of a tool call are an object"),
        (tagged('{"name": "ad", "arguments": {}}'), "There is no tool 'ad'. Did you mean add? Tools: add, multiply."),
        (
            tagged('{"name": "add", "arguments": {"a": 1}}'),
            "add was called with other arguments than it takes: missing",
        ),
        (tagged('{"name": "add", "arguments": {"a": 1, "b": 2, "c": 3}}'), "got an unexpected keyword argument 'c'"),
    ],
)
def test_what_is_written_badly_is_said_and_counted(text, said):
    world = made()
    world.reset(0)
    step = world.step(text)
    assert said in step.observation[0].content
    assert step[1:] == (0.0, False, False, {"calls": 1, "invalid": True})


def test_calls_are_found_in_tags_or_as_the_whole_message():
    one, two = '{"name": "f", "arguments": {"x": 1}}', '{"name": "g", "parameters": {}}'
    assert [(c.name, c.arguments) for c in calls_in(f"I do.{tagged(one)} {tagged(two)}")] == [
        ("f", {"x": 1}),
        ("g", {}),
    ]
    assert [c.name for c in calls_in(f"```json\n{one}\n```")] == ["f"]
    assert calls_in('{"name": "f", "arguments": "{\\"x\\": 1}"}')[0].arguments == {"x": 1}
    assert calls_in(f"Such as {one}.") == calls_in('{"answer": 3}') == calls_in("3") == []


def test_functions_of_a_file_with_their_limits(tmp_path):
    file = tmp_path / "kit.py"
    file.write_text(TOOLS)
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Who?", "truth": "Ann"}\n')
    options = {"file": str(file), "data": str(data), "column": "truth", "answer": "text"}
    options |= {"seconds": "0.05", "characters": "40"}
    world = made(**options)
    assert world.reset(5) == "Who?"

    def content(text):
        return world.step(tagged(text)).observation[0].content

    assert content('{"name": "greet", "arguments": {"name": "Ann", "times": 2}}') == "Hello, Ann!!"
    began = time.monotonic()
    assert content('{"name": "hang", "arguments": {"seconds": 60}}') == "hang failed: no answer within 0.05 s."
    assert time.monotonic() - began < 2
    assert content('{"name": "shout", "arguments": {}}') == '["' + "a" * 38 + "… (464 characters more)"
    assert content('{"name": "fail"}') == "fail failed: LookupError: nothing there."
    assert "Tools: greet, hang, shout, fail." in content('{"name": "join"}')
    assert world.step("Ann").info == {"success": True}
    names = [one["function"]["name"] for one in ROW.tools(options)]
    assert names == ["greet", "hang", "shout", "fail"]
    greet = ROW.tools(options)[0]["function"]
    assert greet["parameters"]["required"] == ["name"]
    assert greet["parameters"]["properties"]["times"] == {"type": "integer", "description": "How often."}
    world.close()


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"there is no file none\.py"):
        made(file="none.py")
    (tmp_path / "empty.py").write_text("X = 1\n")
    with pytest.raises(UserError, match="defines no function that could be a tool"):
        made(file=str(tmp_path / "empty.py"))
    (tmp_path / "bare.py").write_text("def bare(x):\n    return x\n")
    with pytest.raises(UserError, match="The tool bare cannot be described"):
        ROW.tools({"file": str(tmp_path / "bare.py")})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who?"}\n')
    with pytest.raises(UserError, match="has no column 'answer'"):
        made(data=str(rows))
