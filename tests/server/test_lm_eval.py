"""lm-eval through a server reports what it reports with transformers in its own process."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokenq
from bench.lm_eval_parity import in_process, through_server

pytestmark = pytest.mark.integration

PAIRS = [(n, m) for n in range(2) for m in range(1, 4)]
ROWS = [
    {"question": f"What is {n} and {m}?", "answer": str(n + m), "choices": [f" {n + m}", f" {n * m}", f" {n} or so"]}
    for n, m in PAIRS
]


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("float64", 1e-12)])
def test_every_reported_score_is_the_same(tmp_path, dtype, close):
    tiny_model("llama", layers=1).save_pretrained(tmp_path / "model")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    both = model, AutoTokenizer.from_pretrained(folder)
    with tokenq.serve(tokenq.load(both, both, device="cpu"), port=0, model_name="model") as server:
        served = through_server(ROWS, server.url, "model", folder, 256)
    own = in_process(ROWS, folder, 256, dtype)
    assert len(own) == 7
    assert served == pytest.approx(own, rel=close, abs=close)
    assert 0 < own["choice acc"] < 1  # else it would say little
