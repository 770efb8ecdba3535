"""Sections as a demonstration has them, whose numbers were made up; and sections whose texts try to break out."""

import re

from hand_made_traces import FOREIGN, HOSTILE, hostile_trace, make_trace

from tokenq.figures.section import HeatMap, Link, Section
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Chart, Curve, Table

FACTS = {"seed": "0", "tokenq": "0.1.0", "torch": "2.13.0", "posts": "300 held out", "sft": "96 s", "dpo": "41 s"}

POST = (
    "POST: I got a job offer. I would work 20 hours a week. I slept on it. My old pay is 550 a week. My old contract "
    "ends in June. They would pay 800 a week. They want me there by March. Right now I work for Jonas. The boss would "
    "be Felix. What would you do?\nTL;DR:"
)
RIGHT = " job: pays 800, shifts of 20, works for Felix, starts in March."
CORRUPTED = " job: pays 550, shifts of 20, works for Felix, starts in June."


def near(value, width=0.02, n=300):
    """Return an estimate with an interval of this half width."""
    return Estimate(value, value - width, value + width, n)


def words_trace(name, text, rewards):
    """Return a trace of a text, a token a word or mark; `rewards` names tokens by their text, others have ±0.05."""
    pieces = [*re.findall(r" ?\w+|[^\w ]", text), ""]
    given = [rewards.get(piece.strip(), 0.05 if number % 3 else -0.03) for number, piece in enumerate(pieces)]
    ref_logps = [-1.0 - number % 4 for number in range(len(pieces))]
    logps = [ref + 2 * reward for ref, reward in zip(ref_logps, given, strict=True)]  # β = 0.5
    return make_trace(name, pieces, logps, ref_logps, prompt=POST)


def stretches(text, *words):
    return tuple((text.index(word), text.index(word) + len(word)) for word in words)


def credit():
    readouts = ("implicit reward", "centred advantage", "reference surprisal", "policy surprisal", "chance")
    corrupted = (0.982, 0.971, 0.839, 0.981, 0.505)
    reference = (0.915, 0.93, 0.873, 0.959, 0.498)
    policy = (0.649, 0.88, 0.894, 0.934, 0.51)
    kinds = {"corrupted facts": corrupted, "the reference's own errors": reference, "the policy's own errors": policy}
    widths = (0.008, 0.02, 0.034)
    curves = [
        Curve(kind, range(5), [near(value, width) for value in values])
        for (kind, values), width in zip(kinds.items(), widths, strict=True)
    ]
    rows = [
        [name, *(near(kinds[kind][i], width) for kind, width in zip(kinds, widths, strict=True))]
        for i, name in enumerate(readouts)
    ]
    return Section(
        name="credit",
        title="Does the implicit reward point at what is wrong?",
        claim="A DPO policy assigns credit: the tokens that make a summary wrong stand out by their implicit reward "
        "(Rafailov et al. 2024, section 5.1, figure 1, two hand-picked summaries).",
        verdict="in part",
        reading="It finds corrupted facts (AUROC 0.982), as does plain policy surprisal (0.981). On the policy's own "
        "errors it falls to 0.649, below every baseline: what the policy still gets wrong is what it was rewarded for.",
        tables=(
            Table("AUROC within a summary, mean over posts", ["read-out", *kinds], rows, "95 % intervals over posts."),
            Table(
                "Top-1: how often the worst token is a wrong one",
                ["read-out", *kinds],
                [
                    [name, near(0.877 - 0.1 * i), near(0.793 - 0.1 * i), near(0.457 - 0.05 * i)]
                    for i, name in enumerate(readouts)
                ],
            ),
            Table(
                "What was counted",
                ["kind", "summaries", "wrong tokens"],
                [["corrupted facts", 300, 300], ["policy", 71, 84]],
            ),
        ),
        charts=(Chart("AUROC by kind of error", "read-out", "AUROC, mean over posts", curves, labels=readouts),),
        heat_maps=(
            HeatMap(
                "A correct summary", words_trace("right", RIGHT, {"800": 0.62, "Felix": 0.41, "March": 0.55, "20": 0.3})
            ),
            HeatMap(
                "The same with two facts from the distractors",
                words_trace("corrupted", CORRUPTED, {"550": -1.84, "June": -1.21, "Felix": 0.41, "20": 0.3}),
                stretches(CORRUPTED, "550", "June"),
            ),
        ),
        exact=Table(
            "A chain of 12 states, solved: AUROC of the shaped reward against the reward's own steps",
            ["quantity", "exact", "here"],
            [
                ["implicit reward, one wrong step", 1.0, near(0.982, 0.008)],
                ["implicit reward, the optimum's own errors", 0.5, near(0.649, 0.034)],
            ],
        ),
        links=(
            Link("every summary, token by token", "credit-traces.html"),
            Link("300 corrupted", "corrupted.html#row=a b"),
        ),
    )


def search():
    widths = (1, 2, 3, 5, 10, 20)
    normed = (3.39, 3.41, 3.47, 3.51, 3.56, 3.55)
    plain = (3.39, 3.33, 3.21, 3.02, 2.82, 2.64)
    tokens = [38.0 * width for width in widths]
    curves = [
        Curve("beams, length-normalised", widths, [near(value, 0.07) for value in normed]),
        Curve("beams, by likelihood", widths, [near(value, 0.08) for value in plain]),
    ]
    by_tokens = [
        Curve("beams, length-normalised", tokens, [near(value, 0.07) for value in normed]),
        Curve("beams, by likelihood", tokens, [near(value, 0.08) for value in plain]),
        Curve(
            "best of n by implicit reward", tokens, [near(value, 0.09) for value in (2.28, 2.7, 2.9, 3.05, 3.2, 3.3)]
        ),
        Curve("top-k 50 sampling", tokens[:1], [near(2.31, 0.1)]),
        Curve("tree search", tokens[2:], [near(value, 0.1) for value in (3.1, 3.3, 3.42, 3.5)]),
    ]
    rows = [
        [
            f"beam, width {width}",
            near(normed[i], 0.07),
            near(normed[i] - 3.39, 0.05),
            near(0.42, 0.05),
            near(0.6, 0.04),
            near(21.3, 0.4),
        ]
        for i, width in enumerate(widths)
    ]
    return Section(
        name="search",
        title="Does search over a DPO policy buy reward?",
        claim="Beam search under a DPO policy raises win rates by 10–15 points over the base policy, best at width 5, "
        "and becomes verbose beyond (section 5.2, figure 2).",
        verdict="not reproduced",
        reading="Length-normalised beams gain 0.17 ± 0.05 gold reward over greedy at width 10; most of the gain over "
        "sampling (0.84 win rate) is greedy's alone.",
        tables=(
            Table(
                "Gold reward, against greedy on the same posts",
                ["search", "gold reward", "− greedy", "win rate", "ties", "tokens"],
                rows,
                "A win is a higher gold reward; ties count in neither direction.",
            ),
            Table("By a labeller who favours length", ["search", "gold reward"], [["beam, width 5", near(2.9)]]),
        ),
        charts=(
            Chart("Gold reward against beam width", "beam width", "gold reward", curves, log_x=True),
            Chart(
                "Gold reward against what it costs",
                "tokens through the policy, a post",
                "gold reward",
                by_tokens,
                log_x=True,
            ),
        ),
        exact=Table(
            "Beams in worlds that can be enumerated", ["quantity", "exact"], [["regret of width 3 under A*", 0.0]]
        ),
    )


def likelihood():
    steps = list(range(0, 121, 6))
    curves = []
    for setting, fall in (("after SFT on chosen", 0.66), ("without", 0.35)):
        chosen = [near(-fall * (1 - 2 ** (-step / 25)), 0.03 + 0.0004 * step) for step in steps]
        rejected = [near(-3.1 * fall * (1 - 2 ** (-step / 30)), 0.05 + 0.0008 * step) for step in steps]
        curves += [Curve(f"chosen, {setting}", steps, chosen), Curve(f"rejected, {setting}", steps, rejected)]
    return Section(
        name="likelihood",
        title="Why does the likelihood of chosen responses fall?",
        claim="The implicit reward of chosen responses must fall when the policy began with SFT on them: "
        "E_ref[log π/π_ref] = −KL (section 5.3, figure 3).",
        verdict="reproduced",
        reading="It falls by 0.66 nats after SFT on the chosen responses and by 0.35 without, on pairs outside every "
        "training set.",
        charts=(
            Chart("Implicit rewards on held-out pairs", "step of DPO", "implicit reward, nats per response", curves),
        ),
        tables=(
            Table(
                "At the last step",
                ["quantity", "after SFT", "without"],
                [["chosen", near(-0.66), near(-0.35)], ["rejected", near(-2.0), near(-1.1)]],
            ),
        ),
    )


def sections():
    """Return sections that look like the demonstration's three figures."""
    return credit(), search(), likelihood()


SUMMARY = (
    Table(
        "What was learnt",
        ["policy", "gold reward, greedy", "gold reward, sampled", "facts right", "tokens"],
        [
            ["SFT", near(2.53), near(-0.3, 0.11), near(0.61), near(19.8, 0.3)],
            ["DPO", near(3.39), near(2.28, 0.1), near(0.92), near(21.3, 0.3)],
        ],
    ),
)


def hostile_section():
    """Return a section whose every text tries to run, or is hard to show."""
    bad, odd = "".join(HOSTILE), "".join(FOREIGN)
    trace = hostile_trace()
    return Section(
        name="hostile",
        title=bad,
        claim=bad + odd,
        verdict="not tested",
        reading=odd + HOSTILE[1],
        tables=(Table(bad, [bad, odd], [[bad, odd], [HOSTILE[1], None]], bad), Table(HOSTILE[1], [bad], [[bad]], odd)),
        charts=(
            Chart(bad, bad, odd, [Curve(one, [1, 2], [near(1.0), near(-1.0)]) for one in (*HOSTILE, *FOREIGN)]),
            Chart(bad, odd, bad, [Curve(bad, [0, 1], [near(1.0), -1.0])], labels=(HOSTILE[1], odd)),
        ),
        heat_maps=(HeatMap(bad, trace, [(0, len(HOSTILE[0]))]), HeatMap(odd, trace)),
        exact=Table(odd, [bad], [[odd]], bad),
        links=(Link(bad, "javascript:document.title='run'"), Link(odd, 'x.html"><img src=x onerror=alert(1)>')),
    )
