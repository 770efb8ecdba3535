"""One page of every kind, as a reader may have it: long names, many columns, all that a record says."""

from dataclasses import replace

from hand_made_episodes import FAILED, LOST, UNREAD, WON
from hand_made_results import beam_result, drawn_result, wide_result
from hand_made_rounds import hand_made_rounds
from hand_made_runs import FIRST, SECOND, write_run
from hand_made_sections import FACTS, SUMMARY, near, sections
from hand_made_traces import hand_made_pair, judged_pair, long_trace

from tokenq.cli.main import main
from tokenq.figures.section import Section
from tokenq.report.episodes.page import write_episode_page
from tokenq.report.figure_page import write_figures
from tokenq.report.html import write_page
from tokenq.report.outcome_page import write_outcome_page
from tokenq.report.rounds.page import write_rounds_page
from tokenq.report.search_page import write_search_page
from tokenq.rundir import RunDir
from tokenq.stats.outcome import Chart, Curve, ListedExample, Outcome, Table

RECORD = {
    "started": "2026-11-28T12:34:56+00:00",
    "command": ["tokenq", "score", "--policy", "runs/a policy", "--data", "pairs.jsonl"],
    "versions": {"tokenq": "0.1.0"},
    "policy": {"path": "runs/a policy/policy", "weights": "abc"},
    "reference": {"path": "google/gemma-3-270m"},
    "config": {"data": ["hh_harmless.jsonl", "hh_helpful.jsonl"], "beta": None},
}
"""Where the numbers of a page come from, as provenance has it."""


def score(folder):
    pairs = [trace for n in (3, 12, 117) for trace in hand_made_pair(f"hh_harmless_base_test.jsonl, row {n}")]
    judged = [trace for n in (4, 5) for trace in judged_pair(f"data/hh_harmless_base_test.jsonl, row {n}")]
    long = long_trace("hh_helpful_base_test.jsonl, row 1234", 400)
    write_page(folder / "score.html", [*pairs, *judged, long], "runs/a policy against google/gemma-3-270m", RECORD)
    return folder / "score.html"


def search(folder):
    results = [beam_result("1"), wide_result(), drawn_result("prompts_of_a_long_name.jsonl, row 12")]
    write_search_page(folder / "search.html", results, title="mcts with runs/a policy", record=RECORD)
    return folder / "search.html"


def wide_table(names):
    rows = [[f"read-out {n}, a longer name", *(near(0.1 * n - 0.5, 0.013) for _ in names)] for n in range(6)]
    return Table("AUROC of wrong tokens", ["read-out", *names], rows, "Intervals are 95 %.")


def outcome(folder):
    columns = ["all", "before the first error", "after it", "within a response", "− chance", "− length", "− surprisal"]
    examples = [
        ListedExample(f"x{n}", f"pairs.jsonl, row {n}", {"implicit_reward": 0.5 - n, "top_1": 0.5}) for n in range(40)
    ]
    chart = Chart("calibration", "confidence", "share", [Curve("one", [0.5, 1.0], [near(0.6), near(0.9)])])
    found = Outcome("localisation", {}, [wide_table(columns)], [chart], examples, {"policy_tokens": 2000.0})
    write_outcome_page(folder / "outcome.html", found, [], "tokenq eval localisation", RECORD)
    return folder / "outcome.html"


def compare(folder):
    runs = [
        write_run(folder / "dpo-0", FIRST),
        write_run(folder / "dpo-1", FIRST, seed=1),
        write_run(folder / "ipo", SECOND, loss="ipo", beta=0.5),
    ]
    assert main(["compare", *runs, "--html", str(folder / "compare.html"), "--resamples", "1000"]) == 0
    return folder / "compare.html"


def doctor(folder):
    run = write_run(folder / "run", FIRST)
    assert main(["doctor", run, "--html", str(folder / "doctor.html"), "--depth", "record"]) in (0, 1)
    return folder / "doctor.html"


def figures(folder):
    names = [
        "gold reward",
        "− greedy",
        "better than greedy",
        "equal",
        "− sample at its cost",
        "− best of n at its cost",
    ]
    wide = Section(
        "wide",
        "What does search buy?",
        "Much.",
        "in part",
        "Without a model `tokenq verify` checks it.",
        [replace(wide_table([*names, "− majority at its cost", "length", "tokens through the policy"]), title="DPO")],
    )
    facts = FACTS | {"reading every summary of the world": "11 s"}
    return write_figures(folder / "report", "From r to Q*", (*sections(), wide), facts, SUMMARY, RECORD)


def rounds(folder):
    return write_rounds_page(RunDir(hand_made_rounds(folder / "rounds")))


def episodes(folder):
    write_episode_page(
        folder / "e.html", [LOST, WON, UNREAD, FAILED], title="textworld by runs/a policy", record=RECORD
    )
    return folder / "e.html"


PAGES = {one.__name__: one for one in (score, search, outcome, compare, doctor, figures, rounds, episodes)}
