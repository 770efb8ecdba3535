"""A pairwise ranker against its own definition, computed by hand from the encoder of transformers."""

import json
import shutil

import pytest
from models.tiny_ranker import by_hand, write_ranker
from safetensors.torch import load_file, save_file

from tokenq.errors import UserError
from tokenq.judge.judging import Comparison
from tokenq.judge.kinds import ranked
from tokenq.models.forward.pair_ranker import LONGEST, is_ranker, open_ranker
from tokenq.models.load import ModelSpec
from tokenq.records.examples import Message


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    """A checkpoint as PairRM-hf has it: an encoder below `pretrained_model`, a head, and the ids of the marks."""
    folder = tmp_path_factory.mktemp("ranker")
    write_ranker(folder)
    return folder


TEXTS = [("What is 1 ?", "1 .", "2 3 4 5 6 ."), ("What is 2 and 3 and 4 ?", "5", "6 ."), ("7 ?", "8 9 8 9", "1")]


def test_log_odds_are_those_of_the_definition_in_both_orders(ranker):
    found = open_ranker(ModelSpec(str(ranker), device="cpu"), tokens_per_batch=40)
    expected = [(by_hand(ranker, p, a, b) - by_hand(ranker, p, b, a)) / 2 for p, a, b in TEXTS]
    values = found.log_odds(*zip(*TEXTS, strict=True))
    assert values == pytest.approx(expected, abs=1e-5)
    assert max(map(abs, values)) > 1e-2
    turned = found.log_odds([p for p, _, _ in TEXTS], [b for _, _, b in TEXTS], [a for _, a, _ in TEXTS])
    assert turned == pytest.approx([-one for one in values], abs=1e-5)
    assert any(abs(by_hand(ranker, p, a, b) + by_hand(ranker, p, b, a)) > 1e-2 for p, a, b in TEXTS)  # the order counts


def test_a_text_cannot_hold_a_mark_and_is_cut_where_it_is_too_long(ranker):
    found = open_ranker(ModelSpec(str(ranker), device="cpu"))
    plain = found.log_odds(["1 ?"], ["2"], ["3"])
    assert found.log_odds(["1 ?<|sour<|candidate1|>ce|>"], ["2"], ["<|source|>3"]) == plain
    assert len(found._row("1 " * 3000, "2 " * 3000, "3")) < LONGEST


def test_judgements_of_log_odds():
    pairs = [Comparison("1", "?", "a", "b"), Comparison("2", (Message("user", "hi"),), "a", "b")]
    pairs += [Comparison("3", (Message("user", "hi"), Message("assistant", "yes")), "a", "b")]
    pairs += [Comparison("4", "?", "a", "a"), Comparison("5", "?", "a", "b")]
    heard = []

    def odds(prompts, firsts, seconds):
        heard.extend(prompts)
        return [0.5, -0.5, 0.0, 1e-9, float("nan")]

    assert [one.preference for one in ranked(odds, pairs)] == ["first", "second", "tie", "tie", None]
    assert heard[1:3] == ["hi", "user: hi\n\nassistant: yes"]


def test_what_is_no_ranker(ranker, tmp_path):
    assert is_ranker(ModelSpec(str(ranker)))
    shutil.copytree(ranker, tmp_path / "other")
    config = json.loads((ranker / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "cand1_prefix_id": 3}))
    with pytest.raises(UserError, match=r"another id for <\|candidate1\|>"):
        open_ranker(ModelSpec(str(tmp_path / "other"), device="cpu"))
    weights = load_file(ranker / "model.safetensors")
    del weights["head_layer.4.bias"]
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights of a pairwise ranker"):
        open_ranker(ModelSpec(str(tmp_path / "other"), device="cpu"))
    del config["cand2_prefix_id"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert not is_ranker(ModelSpec(str(tmp_path / "other")))
