"""Conversations with tools through the jobs: trained on, read, shown on a page, gone on with by a search."""

import base64
import json
import re
import zlib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

import tokenq
from tokenq.cli.main import main
from tokenq.data.chat.messages import as_turns
from tokenq.data.prompts import Prompt
from tokenq.jobs.doctor.writer import _template
from tokenq.records.results import read_results

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CPU = {"device": "cpu"}


def user(content):
    return {"role": "user", "content": content}


def called(a):
    function = {"name": "f", "arguments": json.dumps({"a": a})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def result(content):
    return {"role": "tool", "tool_call_id": "1", "content": content}


def said(content):
    return {"role": "assistant", "content": content}


TURNS = [user("2+3?"), called(2), result("5"), said("5"), user("+1?"), called(5), result("6"), said("6")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with a template for tools, and a row in a file."""
    root = tmp_path_factory.mktemp("dialogues")
    tokenizer = tiny_tokenizer("bytes", bos="absent", eos="<|im_end|>", chat_template=TEMPLATE)
    tokenizer.save_pretrained(root / "model")
    tiny_model("llama", layers=1, vocab_size=len(tokenizer)).save_pretrained(root / "model")
    (root / "rows.jsonl").write_text(json.dumps({"messages": TURNS, "tools": TOOLS}) + "\n")
    return root, tokenizer


def test_sft_learns_what_the_assistant_wrote_and_nothing_else(place, tmp_path):
    """The loss is that of a forward pass of transformers over the text, at the stretches found by an expression."""
    root, tokenizer = place
    where = {"model": root / "model", "data": root / "rows.jsonl", "output": tmp_path / "run"}
    flags = [f"--{name}={value}" for name, value in where.items()]
    assert main(["train", *flags, "--loss", "sft", "--max-steps", "1", "--device", "cpu"]) == 0
    (step,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[:1]]

    text = "<|im_start|>system\n" + json.dumps(TOOLS) + "<|im_end|>\n"
    for turn in TURNS:
        calls = [
            one["function"] | {"arguments": json.loads(one["function"]["arguments"])}
            for one in turn.get("tool_calls", ())
        ]
        own = (turn["content"] or "") + "".join(f"<call>{json.dumps(call)}</call>" for call in calls)
        text += f"<|im_start|>{turn['role']}\n{own}<|im_end|>\n"
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [match.span(1) for match in re.finditer(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", text)]
    assert len(spans) == 4
    model = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    ids = torch.tensor([found["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits
    logps = logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    own = [any(a <= begin < b for a, b in spans) for begin, _ in found["offset_mapping"]][1:]
    assert sum(own) == sum(len(tokenizer(text[a:b], add_special_tokens=False)["input_ids"]) for a, b in spans)
    assert step["logps/responses"] == pytest.approx(float(logps[torch.tensor(own)].sum()), rel=1e-5)
    assert step["response_length"] == sum(own)


@pytest.mark.integration
@pytest.mark.parametrize("loss", ["dpo", "ipo_sum", "hinge", "robust"])
def test_turns_that_both_sides_share_give_a_pair_no_gradient(place, tmp_path, loss):
    """In a loss of the margin they cancel: learning all turns and learning the last are the same update."""
    root, _ = place
    shared, chosen, rejected = TURNS[1:7], [said("6")], [said("7")]
    rows = {
        "all": {"prompt": TURNS[:1], "chosen": shared + chosen, "rejected": shared + rejected},
        "last": {"prompt": TURNS[:7], "chosen": chosen, "rejected": rejected},
    }
    how = {"loss": loss, "optimizer": "sgd", "learning_rate": 0.1, "max_steps": 1, "max_grad_norm": 1e6}
    runs = [
        tokenq.train(root / "model", [row | {"tools": TOOLS}], tmp_path / name, schedule="constant", **how, **CPU)
        for name, row in rows.items()
    ]
    begun = load_file(root / "model" / "model.safetensors")
    every, last = (load_file(run.policy / "model.safetensors") for run in runs)
    moved = max(float((last[name] - value).abs().max()) for name, value in begun.items())
    apart = max(float((every[name] - last[name]).abs().max()) for name in begun)
    assert moved > 1e-3
    assert apart < 1e-5 * moved
    lengths = [json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0]) for run in runs]
    assert lengths[0]["loss"] == pytest.approx(lengths[1]["loss"], rel=1e-5)


def test_a_conversation_with_tools_is_read_and_shown(place, tmp_path):
    root, _ = place
    out, page = tmp_path / "traces.jsonl", tmp_path / "page.html"
    flags = ["--policy", str(root / "model"), "--reference", str(root / "model"), "--data", str(root / "rows.jsonl")]
    assert main(["score", *flags, "--output", str(out), "--html", str(page), "--device", "cpu"]) == 0
    (trace,) = map(json.loads, out.read_text().splitlines())
    own = [token for token in trace["tokens"] if token["written"]]
    text = "".join(trace["response"][token["start"] : token["end"]] for token in own)
    first, second = (f'<call>{{"name": "f", "arguments": {{"a": {a}}}}}</call><|im_end|>' for a in (2, 5))
    assert text == f"{first}5<|im_end|>{second}6<|im_end|>"
    (packed,) = re.findall(r"eF[\w+/]{80,}=*", page.read_text())
    shown = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert json.dumps(TOOLS) in shown["prompt"]
    pieces = zip(shown["tokens"]["text"], shown["tokens"]["written"], strict=True)
    assert "".join(piece for piece, written in pieces if written).replace("<|im_end|>", "") == "".join(
        f"{call}{answer}" for call, answer in ((first, "5"), (second, "6"))
    ).replace("<|im_end|>", "")


def test_a_server_is_asked_for_tokens_with_the_tools_of_a_prompt():
    asked = []
    server = SimpleNamespace(
        root="there", send=lambda url, bodies: asked.append((url, *bodies)) or [{"tokens": [1, 2]}]
    )
    prompt = Prompt("a", as_turns(TURNS[:3]), "row 1", {"tools": TOOLS, "mood": "calm"})
    assert _template(SimpleNamespace(model="m", server=server), [prompt], [(1, 2)]) == ((), [])
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 2}'}}
    said = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}, TURNS[2]]
    more = {"tools": TOOLS, "chat_template_kwargs": {"mood": "calm"}}
    assert asked == [("there/tokenize", {"model": "m", "add_generation_prompt": True, "messages": said, **more})]


def test_a_search_goes_on_behind_the_result_of_a_tool(place, tmp_path):
    root, tokenizer = place
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "a", "prompt": TURNS[:3], "tools": TOOLS}) + "\n")
    out, page = tmp_path / "found.jsonl", tmp_path / "page.html"
    flags = ["--policy", str(root / "model"), "--prompts", str(tmp_path / "prompts.jsonl"), "--output", str(out)]
    flags += ["--html", str(page), "--method", "greedy", "--max-new-tokens", "4", "--device", "cpu"]
    assert main(["search", *flags]) == 0
    (found,) = read_results(out)
    assert [turn.role for turn in found.prompt] == ["user", "assistant", "tool"]
    assert found.prompt[1].tool_calls[0]["function"] == {"name": "f", "arguments": {"a": 2}}
    model = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    asked = tokenizer.apply_chat_template(
        [turn.to_dict() for turn in found.prompt],
        tools=TOOLS,
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    expected = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert list(found.candidates[0].token_ids) == expected.tolist()
    assert '\\"name\\": \\"f\\"' in page.read_text()
