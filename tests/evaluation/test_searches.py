"""The figure of search: which sweeps make which verdict, and what is said of them."""

from dataclasses import replace

import pytest

from tokenq.evaluation.sweep import Beats, Point, Rival
from tokenq.figures.searches import Sweep, searches
from tokenq.stats.bootstrap import Estimate


def estimate(value, half=0.1):
    return Estimate(value, value - half, value + half, 50)


def point(setting, quality, gain, length=20.0, tokens=100.0):
    beats = Beats(estimate(0.3), estimate(0.6), estimate(0.1))
    rival = Rival("sample", estimate(1.0), estimate(quality - 1.0), beats)
    return Point(
        setting=setting,
        method=setting.split()[0],
        quality=estimate(quality),
        gain=estimate(gain),
        beats_greedy=beats,
        rivals=(rival,),
        policy_tokens=tokens,
        reference_tokens=0.0,
        value_tokens=0.0,
        seconds=0.1,
        length=estimate(length),
        terminal=1.0,
    )


GREEDY = point("greedy", 3.0, 0.0)


@pytest.mark.parametrize(
    ("five", "twenty", "verdict"),
    [
        ((3.5, 0.5, 20.0), (3.1, 0.1, 26.0), "reproduced"),
        ((3.5, 0.5, 20.0), (3.6, 0.6, 26.0), "in part"),
        ((3.5, 0.5, 20.0), (3.1, 0.1, 19.0), "in part"),
        ((3.05, 0.05, 20.0), (3.1, 0.1, 26.0), "not reproduced"),
    ],
)
def test_the_verdict_asks_for_a_gain_of_few_beams_and_for_verbosity_of_many(five, twenty, verdict):
    points = [GREEDY, point("beam width=5", *five), point("beam width=20", *twenty)]
    section = searches([Sweep("one", points, "gold")])
    assert section.verdict == verdict
    gain = five[1]
    ends = f"{gain:+.2f} [{gain - 0.1:+.2f}, {gain + 0.1:+.2f}]".replace("-", "−")
    assert f"5 beams gain {ends} over greedy decoding" in section.reading
    assert "better on 30 % and equal on 60 %" in section.reading
    assert f"20 beams gain {twenty[1]:+.2f}" in section.reading
    assert "greedy decoding alone gains +2.00 [+1.90, +2.10] over one sample" in section.reading


def test_without_a_judge_or_without_beams_nothing_is_tested():
    points = [GREEDY, point("beam width=5", 3.5, 0.5)]
    assert searches([Sweep("one", points, "reward", judged=False)]).verdict == "not tested"
    assert searches([Sweep("one", [GREEDY], "gold")]).verdict == "not tested"


def test_every_search_is_in_the_table_and_its_kind_in_the_charts():
    points = [
        GREEDY,
        point("beam width=5", 3.5, 0.5, tokens=300),
        point("beam width=2", 3.2, 0.2, tokens=150),
        point("beam width=5 length_penalty=0", 2.5, -0.5),
        point("beam_sample width=5 top_k=50", 3.1, 0.1),
        point("best_of_n n=4", 1.0, -2.0),
        point("best_of_n n=4 ranking=mean_likelihood", 3.0, 0.0),
        point("mcts simulations=4", 2.0, -1.0),
    ]
    section = searches([Sweep("one", points, "gold"), Sweep("two", [replace(GREEDY)], "gold")])
    width, length, cost = section.charts[:3]
    assert [curve.name for curve in width.curves] == ["beams", "beams, no length penalty", "sampled beams"]
    assert (list(width.curves[0].x), [y.value for y in width.curves[0].y]) == ([2, 5], [3.2, 3.5])
    assert [y.value for y in length.curves[0].y] == [20.0, 20.0]
    names = ["beams", "best of n by implicit reward", "best of n by mean likelihood", "tree search", "greedy"]
    assert [curve.name for curve in cost.curves] == names
    assert list(cost.curves[0].x) == [150, 300]
    assert [row[0] for row in section.tables[0].rows] == [one.setting for one in points]
    assert section.tables[0].head[-3:] == ["− sample at its cost", "length", "tokens through the policy"]
    assert len(section.tables) == 2
