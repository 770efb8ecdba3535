"""A real vLLM server as the writer, where TOKENQ_VLLM_URL names one and TOKENQ_VLLM_MODEL the folder that it serves."""

import os

import pytest

import tokenq
from tokenq.cli.main import main

URL, MODEL = os.environ.get("TOKENQ_VLLM_URL"), os.environ.get("TOKENQ_VLLM_MODEL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (URL and MODEL), reason="TOKENQ_VLLM_URL and TOKENQ_VLLM_MODEL name no server"),
]


def test_its_log_probs_are_the_policys():
    found = tokenq.examine(writer=URL, policy=MODEL, device="cpu")
    assert {one.name for one in found.findings} <= {"writer-agrees", "template-drift"}, found.findings


@pytest.mark.parametrize("more", [(), ("--lora-rank", "4")])
def test_two_rounds_are_written_with_weights_that_it_takes(tmp_path, more):
    """Started with VLLM_SERVER_DEV_MODE=1, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora."""
    (tmp_path / "prompts.jsonl").write_text(
        "".join(f'{{"prompt": "What is {n} and {n}?", "answer": "{2 * n}"}}\n' for n in range(8))
    )
    words = [
        "online",
        "--model",
        MODEL,
        "--prompts",
        str(tmp_path / "prompts.jsonl"),
        "--output",
        str(tmp_path / "run"),
    ]
    words += ["--writer", URL, "--answer", "last_number", "--gold", "answer", "--rounds", "2", "--samples", "4"]
    assert main([*words, "--max-new-tokens", "16", "--device", "cpu", *more]) == 0
