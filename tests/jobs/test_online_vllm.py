"""A real vLLM server as the writer, where TOKENQ_VLLM_URL names one and TOKENQ_VLLM_MODEL the folder that it serves."""

import json
import os

import pytest

import tokenq

URL, MODEL = os.environ.get("TOKENQ_VLLM_URL"), os.environ.get("TOKENQ_VLLM_MODEL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (URL and MODEL), reason="TOKENQ_VLLM_URL and TOKENQ_VLLM_MODEL name no server"),
]


def test_its_log_probs_are_the_policys():
    found = tokenq.examine(writer=URL, policy=MODEL, device="cpu")
    assert {one.name for one in found.findings} <= {"writer-agrees", "template-drift"}, found.findings


@pytest.mark.parametrize("more", [{"lora_rank": 4, "learning_rate": 1e-2}, {"learning_rate": 1e-3}])
def test_rounds_are_written_with_weights_that_it_takes(tmp_path, more):
    """Started with VLLM_SERVER_DEV_MODE=1, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora.

    The weights move, so that a server which does not take them is off. It has others after the second run.
    """
    (tmp_path / "length.py").write_text("def reward(prompts, responses):\n    return [len(one) for one in responses]\n")
    asked = {"rounds": 3, "samples": 4, "max_new_tokens": 16, "beta": 0.01, "schedule": "constant", "device": "cpu"}
    prompts = [{"prompt": f"What is {n} and {n}?"} for n in range(8)]
    judge = f"{tmp_path / 'length.py'}:reward"
    tokenq.online(MODEL, prompts, tmp_path / "run", writer=URL, judge=judge, **asked, **more)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["round/kl"] > 0.05 for line in lines if "round/kl" in line][1:] == [True, True]
    said = [json.loads(line) for line in (tmp_path / "run" / "rounds" / "writer.jsonl").read_text().splitlines()]
    assert all(line["has"] == line["version"] for line in said)
    assert max(line["worst"] for line in said) < 1e-4
