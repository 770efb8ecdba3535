"""Rows and model of the demonstration: rows as asked, Bradley-Terry labels, text that survives the tokenizer."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tokenq.demo.gold import GOLD, GoldReward, count_tokens
from tokenq.demo.settings import (
    SHORT,
    DemoSettings,
    SftStage,
    demo_model,
    demo_tokenizer,
    label_pairs,
    sft_rows,
)
from tokenq.demo.tldr import CARELESS, CLEAN, Difficulty, make_posts, write_summary

POSTS = make_posts(300, seed=5)
SMALL = replace(
    DemoSettings(),
    sft_stages=(SftStage(20, SHORT, CLEAN, "cosine"), SftStage(30, Difficulty(), CARELESS, "cosine")),
    pair_posts=40,
    held_out_posts=30,
    test_posts=10,
    corrupted_posts=12,
)


def test_demonstrations_are_rows_that_any_trainer_reads():
    rows = sft_rows(POSTS[:20], CARELESS, seed=3)
    assert [row["prompt"] for row in rows] == [post.prompt for post in POSTS[:20]]
    assert [row["completion"] for row in rows] == [write_summary(post, CARELESS, seed=3) for post in POSTS[:20]]
    assert json.loads(json.dumps(rows)) == rows
    assert all(row["completion"].startswith(" ") and not row["prompt"].endswith(" ") for row in rows)


def test_at_temperature_0_the_better_text_is_chosen():
    candidates = [[write_summary(post, CARELESS, seed=i) for i in range(4)] for post in POSTS]
    rows = label_pairs(POSTS, candidates, temperature=0)
    by_prompt = {post.prompt: post for post in POSTS}
    gaps = [GOLD(by_prompt[r["prompt"]], r["chosen"]) - GOLD(by_prompt[r["prompt"]], r["rejected"]) for r in rows]
    assert len(rows) > 290
    assert min(gaps) >= 0
    assert all(row["chosen"] != row["rejected"] for row in rows)


@pytest.mark.parametrize(("temperature", "reward"), [(1.0, GOLD), (2.5, GOLD), (1.0, GoldReward(length_bonus=0.25))])
def test_labels_are_drawn_by_bradley_terry(temperature, reward):
    """A clean text against one that says everything twice: P = σ(gap / temperature), ± 4 standard errors."""
    posts = make_posts(1500, seed=6)
    candidates = [[write_summary(post), write_summary(post, replace(CLEAN, repeat=1))] for post in posts]
    gaps = [reward(post, a) - reward(post, b) for post, (a, b) in zip(posts, candidates, strict=True)]
    rows = label_pairs(posts, candidates, reward, temperature=temperature)
    chose_first = [row["chosen"] == pair[0] for row, pair in zip(rows, candidates, strict=True)]
    chances = [1 / (1 + math.exp(-gap / temperature)) for gap in gaps]
    spread = sum(p * (1 - p) for p in chances) ** 0.5
    assert abs(sum(chose_first) - sum(chances)) < 4 * spread
    assert spread > 1


def test_a_post_without_two_different_texts_gives_no_pair():
    assert label_pairs(POSTS[:2], [[" a", " a"], [" a", " b"]])[0]["prompt"] == POSTS[1].prompt
    assert label_pairs(POSTS[:1], [[]]) == []
    assert label_pairs(POSTS[:1], [["", " ", " a"]]) == []


def test_a_reward_beyond_floats_still_decides():
    rows = label_pairs(POSTS[:1], [[write_summary(POSTS[0]), " x"]], GoldReward(correct=1e9))
    assert rows[0]["rejected"] == " x"


def test_the_labeller_who_likes_length_chooses_longer_texts():
    candidates = [[write_summary(post, CARELESS, seed=i) for i in range(4)] for post in POSTS]

    def surplus(reward):
        rows = label_pairs(POSTS, candidates, reward)
        return sum(count_tokens(row["chosen"]) - count_tokens(row["rejected"]) for row in rows) / len(rows)

    assert surplus(GoldReward(length_bonus=0.5)) > surplus(GOLD) + 1


def test_the_settings_give_posts_and_nothing_is_both_trained_and_measured_on():
    first, second = SMALL.sft_rows()
    assert (len(first), len(second)) == (20, 30)
    assert max(map(count_tokens, (row["prompt"] for row in first))) < 60
    parts = [SMALL.for_pairs(), SMALL.held_out(), SMALL.for_corruption()]
    assert [len(posts) for posts in parts] == [40, 30, 12]
    prompts = [{row["prompt"] for row in rows} for rows in (first, second)]
    prompts += [{post.prompt for post in posts} for posts in parts]
    assert len(set().union(*prompts)) == sum(map(len, prompts))
    assert SMALL.for_test() == SMALL.for_corruption()[:10]
    assert SMALL.for_pairs() == SMALL.for_pairs() != replace(SMALL, seed=1).for_pairs()


def test_a_quick_demonstration_has_an_easier_world():
    quick = DemoSettings.quick(4)
    assert quick.seed == 4
    facts = [len(post.facts) for post in quick.for_pairs()]
    assert (min(facts), max(facts)) == (2, 3)
    assert len(facts) < len(DemoSettings().for_pairs())


def test_text_goes_through_the_tokenizer_unchanged_and_the_prompt_ends_between_tokens():
    tokenizer = demo_tokenizer()
    rows = sft_rows(POSTS, CARELESS)
    for row in rows:
        prompt, completion = (tokenizer(row[name]).input_ids for name in ("prompt", "completion"))
        whole = row["prompt"] + row["completion"]
        ids = tokenizer(whole).input_ids
        assert ids == prompt + completion
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == whole
        assert len(completion) == count_tokens(row["completion"])


def test_the_model_is_small_the_same_each_time_and_of_pythias_kind():
    (model, tokenizer), (again, _), (other, _) = demo_model(), demo_model(), demo_model(1)
    assert model.config.model_type == "gpt_neox"
    assert sum(p.numel() for p in model.parameters()) < 300_000
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == len(tokenizer) < 300
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.get_input_embeddings().weight, other.get_input_embeddings().weight)


@pytest.mark.slow
def test_the_model_learns_to_copy_values_out_of_short_posts():
    """300 steps on short posts: the loss falls from ln 207 = 5.3 to below 1, which needs some of the values."""
    model, tokenizer = demo_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    rows = sft_rows(make_posts(2400, seed=0, difficulty=SHORT))
    losses = []
    for start in range(0, len(rows), 8):
        loss = _loss(model, tokenizer, rows[start : start + 8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 4
    assert sum(losses[-20:]) / 20 < 1


def _loss(model, tokenizer, rows):
    prompts = [tokenizer(row["prompt"]).input_ids for row in rows]
    ends = [[*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id] for row in rows]
    longest = max(len(p) + len(e) for p, e in zip(prompts, ends, strict=True))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        ids[i, : len(prompt) + len(end)] = torch.tensor(prompt + end)
        labels[i, len(prompt) : len(prompt) + len(end)] = torch.tensor(end)
    return model(input_ids=ids, labels=labels).loss
