"""Margins by policies that never saw the rows."""

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.jobs.curation.folds import cross_fitted_margins, pair_row
from tokenq.records.examples import Example, Message, Response

pytestmark = pytest.mark.integration


def pair(prompt, chosen, rejected):
    return Example(prompt, (Response(chosen, role="chosen"), Response(rejected, role="rejected")), True, "a row")


PAIRS = [pair(f"Say {n // 2}", f" {n} yes yes", f" no {n}") for n in range(8)]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    model = tmp_path_factory.mktemp("model")
    tiny_model("llama", layers=1).save_pretrained(model)
    tiny_tokenizer("bytes").save_pretrained(model)
    return {"model": str(model), "device": "cpu", "max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("margins") / "folds"


@pytest.fixture(scope="module")
def found(folder, training):
    return cross_fitted_margins(PAIRS, folder, training, folds=2, seed=3)


def test_every_pair_is_read_by_the_policy_that_was_trained_without_it(found, folder):
    assert sorted(np.bincount(found.folds)) == [4, 4]
    prompts = [{PAIRS[place].prompt for place in np.flatnonzero(found.folds == fold)} for fold in (0, 1)]
    assert not prompts[0] & prompts[1]
    for fold, run in enumerate(found.runs):
        trained = {row["prompt"] for row in JsonLines(run.folder / "inputs" / "data.jsonl").read()}
        assert trained == prompts[1 - fold]
        held = [place for place in range(8) if found.folds[place] == fold]
        traces = tokenq.load(run).score_all([pair_row(PAIRS[place]) for place in held])
        rewards = np.array([trace.totals.implicit_reward for trace in traces]).reshape(-1, 2)
        refs = np.array([trace.totals.ref_logp for trace in traces]).reshape(-1, 2)
        np.testing.assert_allclose(found.margins[held], rewards[:, 0] - rewards[:, 1], rtol=1e-6)
        np.testing.assert_allclose(found.ref_margins[held], refs[:, 0] - refs[:, 1], rtol=1e-6)
    lines = list(JsonLines(folder / "margins.jsonl").read())
    assert [line["margin"] for line in lines] == found.margins.tolist()
    assert [line["fold"] - 1 for line in lines] == found.folds.tolist()


def test_it_goes_on_where_it_stopped_and_refuses_another_job(found, folder, training):
    (folder / "margins.jsonl").unlink()
    (folder / "fold-2" / "margins.jsonl").unlink()
    before = (folder / "fold-1" / "metrics.jsonl").stat().st_mtime_ns
    again = cross_fitted_margins(PAIRS, folder, training, folds=2, seed=3)
    assert again.margins.tolist() == found.margins.tolist()
    assert (folder / "fold-1" / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other data, or by other trainings"):
        cross_fitted_margins(PAIRS[1:], folder, training, folds=2, seed=3)


def test_more_folds_than_prompts_are_refused(tmp_path, training):
    with pytest.raises(UserError, match="--folds is 5, and the pairs have 4 different prompts"):
        cross_fitted_margins(PAIRS, tmp_path / "folds", training, folds=5)


def test_a_row_of_a_pair_gives_it_back():
    turns = (Message("user", "1 + 1?"),)
    one = Example(
        turns,
        (Response((Message("assistant", "2"),)), Response((Message("assistant", "3"),))),
        True,
        "there",
        {"tools": [{"type": "function"}], "date": "today"},
        2.0,
    )
    assert pair_row(one) == {
        "prompt": [{"role": "user", "content": "1 + 1?"}],
        "chosen": [{"role": "assistant", "content": "2"}],
        "rejected": [{"role": "assistant", "content": "3"}],
        "tools": [{"type": "function"}],
        "chat_template_kwargs": {"date": "today"},
        "margin": 2.0,
    }
