"""The world of posts: what is stated is where it is said to be, and the gold reward is what the rules say by hand."""

import pytest
from examples import share_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenq.demo.gold import GOLD, GoldReward, corrupt, count_tokens, judge, read_facts
from tokenq.demo.tldr import (
    CARELESS,
    CLEAN,
    Difficulty,
    Fact,
    Noise,
    Post,
    make_posts,
    write_summary,
)
from tokenq.demo.wording import ATTRIBUTES, FILLERS, QUESTIONS, REMARKS, TOPICS
from tokenq.errors import UserError

POSTS = make_posts(200, seed=0)


def small_post() -> Post:
    """A post that states pay 500 and city Leeds, with Porto as the distractor of the city."""
    nowhere = (0, 0)
    facts = (Fact("pay", "500", nowhere, nowhere), Fact("city", "Leeds", nowhere, nowhere))
    return Post("POST: ...", TOPICS[0], facts, (Fact("city", "Porto", nowhere, nowhere),))


def test_a_post_is_the_same_on_every_machine():
    assert make_posts(1, seed=0)[0].prompt == (
        "POST: A new job came up. We would meet every Tuesday. They want me there by January. My old pay is "
        "800 a week. My mother says no. It pays 950 a week. Right now I am busy until October. My old class "
        "was on Sunday. Right now I work for Ben. I slept on it. I would work for Iris. Should I take "
        "it?\nTL;DR:"
    )


def test_a_longer_list_begins_with_the_shorter_and_seeds_differ():
    assert make_posts(5, seed=0) == POSTS[:5]
    assert not {p.prompt for p in make_posts(200, seed=1)} & {p.prompt for p in POSTS}


def test_every_fact_and_aside_stands_where_its_spans_say():
    for post in POSTS:
        for fact in (*post.facts, *post.asides):
            attribute = ATTRIBUTES[fact.attribute]
            ways = attribute.stated if fact in post.facts else attribute.asides
            assert post.prompt[slice(*fact.span)] == fact.value
            assert post.prompt[slice(*fact.phrase)] in [way.format(fact.value) for way in ways]
        starts = [fact.span[0] for fact in post.facts]
        assert starts == sorted(starts)


def test_posts_are_as_difficult_as_asked():
    for difficulty in (Difficulty(), Difficulty(facts=(2, 2), asides=(1, 1), fillers=(3, 3), wordings=1)):
        for post in make_posts(60, seed=3, difficulty=difficulty):
            truth = post.truth()
            assert difficulty.facts[0] <= len(post.facts) == len(truth) <= difficulty.facts[1]
            assert difficulty.asides[0] <= len(post.asides) <= difficulty.asides[1]
            assert all(aside.attribute in truth and truth[aside.attribute] != aside.value for aside in post.asides)
            fillers = sum(post.prompt.count(f" {filler}") for filler in FILLERS)
            assert difficulty.fillers[0] <= fillers <= difficulty.fillers[1]
            assert set(truth) <= set(post.topic.attributes)
            if difficulty.wordings == 1:
                assert QUESTIONS[1] not in post.prompt
                assert all(
                    post.prompt[slice(*f.phrase)] == ATTRIBUTES[f.attribute].stated[0].format(f.value)
                    for f in post.facts
                )


def test_every_phrase_of_every_attribute_is_read_as_itself_alone():
    for name, attribute in ATTRIBUTES.items():
        for template in attribute.noted:
            for value in attribute.values:
                text = f" job: {template.format(value)}."
                (fact,) = read_facts(text)
                assert (fact.attribute, fact.value) == (name, value)
                assert text[slice(*fact.span)] == value
                assert text[slice(*fact.phrase)] == template.format(value)


def test_nothing_else_that_a_summary_may_hold_is_read_as_a_fact():
    titles = [f"{topic.title}:" for topic in TOPICS]
    assert read_facts(" ".join((*REMARKS, *titles, *FILLERS))) == ()


def test_facts_are_read_out_of_any_text():
    text = "Well, it PAYS\n 450 and 7 big rooms, with anna?? pays 4500, in in Leeds,goes with Ben"
    facts = read_facts(text)
    assert [(f.attribute, f.value) for f in facts] == [
        ("pay", "450"),
        ("friend", "Anna"),
        ("city", "Leeds"),
        ("friend", "Ben"),
    ]
    assert [text[slice(*f.span)] for f in facts] == ["450", "anna", "Leeds", "Ben"]
    assert text[slice(*facts[0].phrase)] == "PAYS\n 450"


@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["pays", "400", "in", "Leeds", ",", "rooms", "7"])).map(" ".join)
)
@settings(max_examples=share_of(200), deadline=None)
def test_any_text_can_be_judged(text):
    verdict = judge(small_post(), text)
    facts = (*verdict.correct, *verdict.wrong, *verdict.repeated)
    assert sorted(facts, key=lambda f: f.span) == list(read_facts(text))
    assert all(text[slice(*f.span)].lower() == f.value.lower() for f in facts)
    assert verdict.n_tokens <= len(text)


@pytest.mark.parametrize(
    ("text", "correct", "wrong", "repeated", "tokens"),
    [
        (" job: pays 500, in Leeds.", 2, 0, 0, 8),
        (" job: pays 500, in Porto.", 1, 1, 0, 8),
        (" job: pays 500, pay 500, pays 500.", 1, 0, 2, 11),
        (" job: in Porto, in Leeds.", 1, 1, 0, 8),
        (" job: in Porto, in Porto.", 0, 2, 0, 8),
        (" job: boss Ben.", 0, 1, 0, 5),
        ("", 0, 0, 0, 0),
        (" job: so I am not sure.", 0, 0, 0, 8),
    ],
)
def test_the_gold_reward_by_hand(text, correct, wrong, repeated, tokens):
    """Facts +1, −1 and −0.5, tokens −0.05 each; with a bonus of 0.15 a token is worth +0.1."""
    post, facts = small_post(), correct - wrong - 0.5 * repeated
    verdict = judge(post, text)
    assert (len(verdict.correct), len(verdict.wrong), len(verdict.repeated)) == (correct, wrong, repeated)
    assert GOLD(post, text) == pytest.approx(facts - 0.05 * tokens)
    assert GoldReward(length_bonus=0.15)(post, text) == pytest.approx(facts + 0.1 * tokens)
    assert GoldReward(2, -3, -4, 0)(post, text) == pytest.approx(2 * correct - 3 * wrong - 4 * repeated)


def test_a_careful_summary_reports_every_fact_once_in_the_order_of_the_topic():
    for post in POSTS:
        text = write_summary(post)
        verdict = judge(post, text)
        names = [fact.attribute for fact in verdict.correct]
        assert names == [name for name in post.topic.attributes if name in post.truth()]
        assert verdict.wrong == verdict.repeated == ()
        assert GOLD(post, text) == pytest.approx(len(post.facts) - 0.05 * count_tokens(text))
        assert text == write_summary(post, CLEAN)


def test_each_carelessness_does_what_it_says():
    for post in POSTS[:50]:
        n = len(post.facts)
        assert write_summary(post, Noise(omit=1)) == f" {post.topic.title}."
        wrong = judge(post, write_summary(post, Noise(wrong=1)))
        assert (len(wrong.correct), len(wrong.wrong)) == (0, n)
        asides = {aside.attribute: aside.value for aside in post.asides}
        assert all(asides.get(fact.attribute, fact.value) == fact.value for fact in wrong.wrong)
        twice = judge(post, write_summary(post, Noise(repeat=1)))
        assert (len(twice.correct), len(twice.repeated)) == (n, n)
        assert any(remark in write_summary(post, Noise(remark=1)) for remark in REMARKS)
    shuffled = [judge(post, write_summary(post, Noise(shuffle=1))) for post in POSTS]
    orders = [[fact.attribute for fact in verdict.correct] for verdict in shuffled]
    ordered = [names == sorted(names, key=p.topic.attributes.index) for p, names in zip(POSTS, orders, strict=True)]
    assert sum(ordered) < 20


def test_chances_of_carelessness_are_met():
    """1000 facts or so: 12 % left out; of those written first, 30 % wrong (±4 standard errors)."""
    facts = sum(len(post.facts) for post in POSTS)
    verdicts = [judge(post, write_summary(post, Noise(omit=0.12, wrong=0.3))) for post in POSTS]
    wrong = sum(len(v.wrong) for v in verdicts)
    written = wrong + sum(len(v.correct) for v in verdicts)
    assert abs(1 - written / facts - 0.12) < 4 * (0.12 * 0.88 / facts) ** 0.5
    assert abs(wrong / written - 0.3) < 4 * (0.3 * 0.7 / written) ** 0.5


def test_writers_differ_by_seed_and_repeat_themselves():
    assert write_summary(POSTS[0], CARELESS, seed=1) == write_summary(POSTS[0], CARELESS, seed=1)
    assert len({write_summary(POSTS[0], CARELESS, seed=i) for i in range(20)}) > 5


def test_a_corruption_changes_one_value_and_says_which():
    for post in POSTS[:100]:
        text = write_summary(post)
        made = corrupt(post, text)
        start, stop = made.fact.span
        assert made.text[start:stop] == made.fact.value != made.original
        assert made.text[:start] + made.original + made.text[stop:] == text
        assert made.fact.value in [a.value for a in post.asides if a.attribute == made.fact.attribute]
        assert judge(post, made.text).wrong == (made.fact,)
    assert len({corrupt(POSTS[0], write_summary(POSTS[0]), seed=i).fact.attribute for i in range(20)}) > 1


def test_a_summary_without_a_fact_to_corrupt_is_refused():
    with pytest.raises(UserError, match="distractor"):
        corrupt(small_post(), " job: pays 500.")


def test_tokens_are_words_and_marks():
    assert count_tokens(" job: pays 500, it's\nnot 3.5!") == 13
