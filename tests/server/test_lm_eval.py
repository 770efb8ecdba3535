"""lm-eval through a server reports what it reports with transformers in its own process."""

import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
from bench.lm_eval_parity import in_process, through_server

PAIRS = [(n, m) for n in range(2) for m in range(1, 4)]
ROWS = [
    {"question": f"What is {n} and {m}?", "answer": str(n + m), "choices": [f" {n + m}", f" {n * m}", f" {n} or so"]}
    for n, m in PAIRS
]


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
def test_every_reported_score_is_the_same(tmp_path):
    tiny_model("llama", layers=1).save_pretrained(tmp_path / "model")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    with tokenq.serve(tokenq.load(folder, folder, device="cpu"), port=0) as server:
        served = through_server(ROWS, server.url, "model", folder, 256)
    own = in_process(ROWS, folder, 256)
    assert len(own) == 7
    assert served == pytest.approx(own, rel=1e-6, abs=1e-6)
    assert 0 < own["choice acc"] < 1  # else it would say little
