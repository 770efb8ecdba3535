"""Runs side by side: numbers worked out by hand from known pairs, seeds, curves, and runs that must be refused."""

import json
import math

import pytest
from hand_made_runs import FIRST, SECOND, STARTS, change_lines, write_lines, write_metrics, write_provenance, write_run

from tokenq.comparison.compared_runs import find_setup, read_runs, setups_of
from tokenq.comparison.comparison import compare
from tokenq.comparison.curves import curves_of
from tokenq.comparison.outcome import outcome_of
from tokenq.errors import UserError
from tokenq.stats.bootstrap import Estimate, difference_interval, mean_interval, proportion_interval


def compared(*folders, baseline=None):
    setups = setups_of(read_runs(folders))
    return compare(setups, find_setup(setups, baseline))


@pytest.fixture
def two(tmp_path):
    """Two runs on the same four pairs, the second under another β."""
    return [
        write_run(tmp_path / "runs" / "dpo", FIRST),
        write_run(tmp_path / "runs" / "ipo", SECOND, loss="ipo", beta=0.5),
    ]


def values(estimates):
    return {name: one.value for name, one in estimates.items()}


class TestNumbers:
    def test_of_one_run(self, two):
        """Margins 2, −1, 0, 3; KL 2, 1.5, 0, 0.5; the longer one is right in a, tied in c, wrong in d, none in b."""
        assert values(compared(*two).compared[0].held_out) == pytest.approx(
            {
                "accuracy": 0.5,
                "margin": 1.0,
                "kl": 1.0,
                "longer_preferred": 0.5,
                "chosen": -0.5,
                "rejected": -1.5,
                "likelihood_accuracy": 0.5,  # −11 < −9, −10 = −10, −4 > −12, −8 > −16
                "mean_likelihood_accuracy": 0.25,  # −2.2 > −3, −2.5 = −2.5, −2 = −2, −2.67 < −2.29
            }
        )

    def test_differences_are_paired(self, two):
        first, second = compared(*two).compared
        assert first.difference is None
        assert values(second.difference) == pytest.approx(
            {
                "accuracy": 0.0,
                "margin": -0.5,
                "kl": -0.5,
                "longer_preferred": 1 / 3,  # a 1, c 1 and d ½ against 1, ½ and 0
                "chosen": 0.25,
                "rejected": 0.75,
                "likelihood_accuracy": 0.25,  # −10 < −7, −8 > −11, −5 > −12, −9 > −14: 3 of 4
                "mean_likelihood_accuracy": 0.25,  # −2 > −2.33, −2 > −2.75, −2.5 < −2, −3 < −2: 2 of 4
            }
        )
        want = difference_interval([1.0, 2.0, -1.0, 0.0], [2.0, -1.0, 0.0, 3.0])
        assert second.difference["margin"] == want

    def test_intervals_are_of_pairs_and_shares_have_wilsons(self, two):
        first = compared(*two).compared[0]
        assert first.held_out["accuracy"] == Estimate(0.5, *proportion_interval(2, 4), 4)
        assert first.held_out["margin"] == mean_interval([2.0, -1.0, 0.0, 3.0])

    def test_pairs_of_one_prompt_are_drawn_together(self, tmp_path):
        prompts = {"a": "one", "b": "one", "c": "two", "d": "two"}
        folders = [write_run(tmp_path / n, d, prompts=prompts, loss=n) for n, d in (("dpo", FIRST), ("ipo", SECOND))]
        found = compared(*folders)
        assert found.compared[0].held_out["margin"].n == 2
        assert found.compared[0].held_out["margin"] == mean_interval([2.0, -1.0, 0.0, 3.0], ["x", "x", "y", "y"])
        assert outcome_of(found).numbers["prompts"] == 2

    def test_rewards_are_log_ratios_at_the_own_beta(self, two):
        first, second = compared(*two).compared
        assert values(first.rewards) == pytest.approx({"margin": 0.1, "chosen": -0.05, "rejected": -0.15})
        assert values(second.rewards) == pytest.approx({"margin": 0.25, "chosen": -0.125, "rejected": -0.375})
        margin = second.held_out["margin"]
        assert second.rewards["margin"].low == pytest.approx(0.5 * margin.low)
        drifts = next(table for table in outcome_of(compared(*two)).tables if table.title.startswith("drift"))
        assert "β differs between these runs" in drifts.note

    def test_the_baseline_can_be_named(self, two):
        found = compared(*two, baseline=two[1])
        assert found.compared[1].difference is None
        assert found.compared[0].difference["margin"].value == pytest.approx(0.5)

    def test_costs(self, two):
        """Steps of 1.5 and 0.5 seconds in turn."""
        cost = compared(*two).compared[0].cost
        assert cost["seconds_a_step"].value == pytest.approx(1.0)
        assert cost["seconds_a_step"].low < 1.0 < cost["seconds_a_step"].high
        assert {name: cost[name] for name in ("steps", "seconds", "tokens", "tokens_per_second")} == {
            "steps": 20,
            "seconds": 20,
            "tokens": 600,
            "tokens_per_second": 30,
        }
        assert cost["peak_memory_gb"] == pytest.approx(1.2)


class TestReference:
    def test_a_loss_without_one_is_read_against_that_of_the_others(self, tmp_path):
        moved = {name: (chosen - 1, rejected) for name, (chosen, rejected) in STARTS.items()}
        dpo, simpo = tmp_path / "dpo", tmp_path / "simpo"
        folders = [write_run(dpo, FIRST), write_run(simpo, SECOND, loss="simpo", reference=False)]
        change_lines(dpo, lambda line: line | {"ref_logp": moved[line["row"][-1]][line["side"] == "rejected"]})
        found = compared(*folders)
        assert found.against == "the reference"
        assert found.compared[1].held_out["margin"].value == pytest.approx(0.5 + 1)
        assert found.compared[1].held_out["chosen"].value == pytest.approx(-0.25)  # since the start, not the reference
        assert found.compared[1].rewards == {}

    def test_without_any_the_start_takes_its_place(self, tmp_path):
        folders = [write_run(tmp_path / name, FIRST, loss=name, reference=False) for name in ("simpo", "orpo")]
        found = compared(*folders)
        assert found.against == "the start"
        assert found.compared[0].held_out["margin"].value == pytest.approx(1.0)

    def test_a_start_that_was_lost_is_taken_from_another_run(self, two, tmp_path):
        change_lines(tmp_path / "runs" / "ipo", lambda line: line | {"start_logp": None})
        assert compared(*two).compared[1].held_out["chosen"].value == pytest.approx(-0.25)


class TestSeeds:
    def test_runs_that_differ_in_the_seed_alone_are_one_setup(self, tmp_path):
        other = {name: (chosen + 1, rejected) for name, (chosen, rejected) in FIRST.items()}
        folders = [
            write_run(tmp_path / "dpo-seed0", FIRST),
            write_run(tmp_path / "ipo", SECOND, loss="ipo"),
            write_run(tmp_path / "dpo-seed1", other, seed=1),
        ]
        found = compared(*folders)
        assert [one.setup.name for one in found.compared] == ["dpo", "ipo"]
        dpo, ipo = found.compared
        assert dpo.seeds["margin"].values == pytest.approx((1.0, 2.0))
        assert dpo.seeds["margin"].mean == pytest.approx(1.5)
        assert dpo.seeds["margin"].sd == pytest.approx(math.sqrt(0.5))
        assert dpo.held_out["margin"] == mean_interval([2.5, -0.5, 0.5, 3.5])
        assert dpo.held_out["accuracy"].value == pytest.approx(0.625)  # margins 3, 0, 1 and 4: right in 2 and in 3
        assert ipo.difference["margin"].value == pytest.approx(-1.0)
        assert ipo.seeds is None
        assert dpo.cost["seconds_a_step"].value == pytest.approx(1.0)

    def test_a_pair_that_some_seeds_hold_out_counts_with_these(self, tmp_path):
        parts = [{name: FIRST[name] for name in "abc"}, {"c": (2.0, 0.0), "d": FIRST["d"]}]
        folders = [write_run(tmp_path / f"dpo-{i}", part, seed=i) for i, part in enumerate(parts)]
        folders.append(write_run(tmp_path / "ipo", SECOND, loss="ipo"))
        dpo = compared(*folders).compared[0]
        assert dpo.held_out["margin"] == mean_interval([2.0, -1.0, 1.0, 3.0])
        assert dpo.seeds["margin"].values == pytest.approx((1 / 3, 2.5))

    def test_one_seed_twice_is_two_setups(self, tmp_path):
        folders = [write_run(tmp_path / name / "dpo", drifts) for name, drifts in (("x", FIRST), ("y", SECOND))]
        found = compared(*folders)
        assert [one.setup.name for one in found.compared] == ["x/dpo", "y/dpo"]
        assert found.compared[1].difference["margin"].value == pytest.approx(-0.5)

    def test_further_settings_that_differ_are_told(self, tmp_path):
        folders = [
            write_run(tmp_path / name, FIRST, learning_rate=rate) for name, rate in (("slow", 1e-6), ("fast", 1e-5))
        ]
        settings = outcome_of(compared(*folders)).tables[0]
        assert [row[4] for row in settings.rows] == ["learning_rate=1e-06", "learning_rate=1e-05"]


class TestCurves:
    def test_of_held_out_pairs_where_there_are_enough_evaluations(self, two):
        charts = {chart.title: chart for chart in curves_of(setups_of(read_runs(two)))}
        chosen = charts["drift of log π, chosen, held-out pairs"].curves[0]
        assert (list(chosen.x), list(chosen.y)) == ([0, 10, 20], pytest.approx([0.0, -1.0, -2.0]))
        assert charts["margin of log-ratios, held-out pairs"].curves[1].y == pytest.approx([0.0, 1.0, 2.0])
        assert charts["KL estimate, held-out pairs"].curves[1].y == pytest.approx([0.0, 1.5, 3.0])
        assert [curve.name for curve in charts["KL estimate, held-out pairs"].curves] == ["dpo", "ipo"]

    def test_else_of_training_batches_without_beta(self, two, tmp_path):
        for name, beta in (("dpo", 0.1), ("ipo", 0.5)):
            write_metrics(tmp_path / "runs" / name, 20, beta, evaluated=(0, 20))
        charts = {chart.title: chart for chart in curves_of(setups_of(read_runs(two)))}
        for curve in charts["margin of log-ratios, training batches"].curves:
            assert list(curve.x) == list(range(20))
            assert curve.y == pytest.approx([0.1 * step for step in range(20)])
        assert charts["log π/π_ref, rejected, training batches"].curves[1].y[-1] == pytest.approx(-3.8)

    def test_a_loss_without_rewards_has_its_evaluations(self, tmp_path):
        simpo = tmp_path / "simpo"
        folders = [write_run(tmp_path / "dpo", FIRST), write_run(simpo, SECOND, loss="simpo", reference=False)]
        write_metrics(simpo, 20, None, evaluated=(0, 20))
        charts = {chart.title: chart for chart in curves_of(setups_of(read_runs(folders)))}
        assert charts["KL estimate, held-out pairs"].curves[1].y == pytest.approx([0.0, 3.0])

    def test_several_seeds_are_their_mean_and_range(self, tmp_path):
        folders = [write_run(tmp_path / f"dpo-{seed}", FIRST, seed=seed) for seed in (0, 1)]
        lines = (tmp_path / "dpo-1" / "metrics.jsonl").read_text().splitlines()
        moved = [json.loads(line) for line in lines]
        for line in moved:
            if line["step"] and "eval_logps/chosen" in line:
                line["eval_logps/chosen"] += 1.0
        write_lines(tmp_path / "dpo-1" / "metrics.jsonl", moved)
        chart = curves_of(setups_of(read_runs(folders)))[2]
        assert chart.title == "drift of log π, chosen, held-out pairs"
        last = chart.curves[0].y[-1]
        assert (last.value, last.low, last.high, last.n) == pytest.approx((-1.5, -2.0, -1.0, 2))


class TestRefusals:
    @pytest.fixture
    def refused(self, two):
        """Return a function that gives the message and the hint of a refusal."""

        def refuse(*folders, baseline=None):
            with pytest.raises(UserError) as caught:
                compared(*(folders or two), baseline=baseline)
            return caught.value.message, caught.value.hint

        return refuse

    def test_another_model(self, two, refused, tmp_path):
        ipo = tmp_path / "runs" / "ipo"
        write_provenance(ipo, model={"path": "start", "weights": "b" * 64})
        compared(*two)  # what they say of the held-out pairs is the same: other numbers, one model
        change_lines(ipo, lambda line: line | {"start_logp": line["start_logp"] - 1})
        message, _ = refused()
        assert "do not begin from one model; model.weights" in message
        assert f"{ipo}/provenance.json is bbbbbbbbbbbb…" in message
        assert "dpo/provenance.json aaaaaaaaaaaa…" in message

    def test_adapters_without_a_pair_in_common_go_by_the_path(self, tmp_path):
        parts = [{name: FIRST[name] for name in names} for names in ("ab", "cd")]
        options = {"lora_rank": 4, "eval_size": 2, "eval_data": []}
        for seed, part in enumerate(parts):
            write_run(tmp_path / f"dpo-{seed}", part, seed=seed, **options)
        write_provenance(tmp_path / "dpo-1", model={"path": "start", "weights": "b" * 64})
        folders = [str(tmp_path / f"dpo-{seed}") for seed in (0, 1)]
        assert len(read_runs(folders)) == 2
        write_provenance(tmp_path / "dpo-1", model={"path": "other", "weights": "b" * 64})
        with pytest.raises(UserError, match="do not begin from one model"):
            read_runs(folders)

    def test_another_reference(self, two, refused, tmp_path):
        ipo = tmp_path / "runs" / "ipo"
        write_provenance(ipo, reference={"path": "other", "weights": "b" * 64})
        change_lines(ipo, lambda line: line | {"ref_logp": line["ref_logp"] - 1})
        assert "do not have one reference; reference.weights" in refused()[0]

    def test_other_data_names_the_setting(self, tmp_path, refused):
        folders = [write_run(tmp_path / f"r{n}", FIRST, max_length=n) for n in (512, 256)]
        write_provenance(tmp_path / "r256", data={"sha256": "f" * 64, "summary": {"rows": 40}})
        assert (
            f"max_length in {tmp_path}/r256/config.yaml is 256, in {tmp_path}/r512/config.yaml 512."
            in refused(*folders)[0]
        )

    def test_other_rows_or_another_tokenizer(self, two, refused, tmp_path):
        write_provenance(tmp_path / "runs" / "ipo", data={"sha256": "f" * 64, "summary": {"rows": 40}})
        assert "(other rows or another tokenizer); data.sha256" in refused()[0]

    def test_another_seed_may_hold_out_other_rows_of_the_same(self, tmp_path, refused):
        options = {"eval_size": 4, "eval_data": []}
        folders = [write_run(tmp_path / f"dpo-{seed}", FIRST, seed=seed, **options) for seed in (0, 1)]
        write_provenance(tmp_path / "dpo-1", data={"sha256": "f" * 64, "summary": {"rows": 40}})
        assert len(read_runs(folders)) == 2
        write_provenance(tmp_path / "dpo-1", data={"sha256": "f" * 64, "summary": {"rows": 41}})
        assert "data.sha256" in refused(*folders)[0]

    def test_no_pair_in_common(self, tmp_path, refused):
        parts = [{name: FIRST[name] for name in names} for names in ("ab", "bc")]
        folders = [write_run(tmp_path / f"r{n}", part, loss=n) for n, part in zip(("dpo", "ipo"), parts, strict=True)]
        message, hint = refused(*folders)
        assert message == "The runs hold out 1 pairs in common (held_out.jsonl: rdpo 2, ripo 2)."
        assert "--eval-data" in hint

    def test_an_unfinished_run(self, two, refused, tmp_path):
        (tmp_path / "runs" / "ipo" / "policy").rmdir()
        compared(*two)  # its twenty steps are done: someone has made room
        write_metrics(tmp_path / "runs" / "ipo", 12, 0.5)
        message, hint = refused()
        assert "has not finished: its last step is 12 of 20." in message
        assert hint.endswith("runs/ipo/config.yaml --resume")

    def test_a_reward_model(self, two, refused, tmp_path):
        (tmp_path / "runs" / "ipo" / "reward_model").mkdir()
        message, hint = refused()
        assert "ipo trained a reward model" in message
        assert "eval preference --reward-model" in hint

    def test_a_run_without_evaluation(self, refused, tmp_path):
        write_metrics(tmp_path / "runs" / "ipo", 20, 0.5, evaluated=())
        message, hint = refused()
        assert "was trained without held-out data" in message
        assert "--eval-data" in hint

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda folder: (folder / "held_out.jsonl").unlink(), "is missing or empty"),
            (lambda folder: change_lines(folder, lambda line: line | {"step": 10}), "is of step 10, and training"),
            (lambda folder: change_lines(folder, lambda line: line | {"side": None}), "holds no pair"),
            (lambda folder: change_lines(folder, lambda line: line | {"side": "best"}), "line 1: side is 'best'"),
            (lambda folder: write_lines(folder / "held_out.jsonl", [{"step": 1}]), "line 1: example is missing"),
        ],
    )
    def test_held_out_pairs_that_are_not_there(self, spoil, said, refused, tmp_path):
        spoil(tmp_path / "runs" / "ipo")
        assert said in refused()[0]

    def test_an_example_of_several_chosen_responses_is_no_pair(self, two, refused, tmp_path):
        change_lines(tmp_path / "runs" / "ipo", lambda line: line | {"example": line["example"] // 2})
        assert "holds no pair" in refused()[0]

    def test_no_run_names_the_nearest_or_those_inside(self, two, refused, tmp_path):
        runs = tmp_path / "runs"
        assert refused(two[0], str(runs / "ipp")) == (f"There is no run at {runs}/ipp.", f"Did you mean {runs}/ipo?")
        assert refused(two[0], str(runs))[1] == f"It holds runs: {runs}/dpo {runs}/ipo"
        assert refused(str(runs))[1] == f"It holds runs: {runs}/dpo {runs}/ipo"

    def test_one_run_or_one_twice(self, two, refused):
        assert refused(two[0])[0] == "A comparison needs two runs or more."
        assert refused(two[0], two[1], f"{two[0]}/")[0].endswith("/dpo is given twice.")

    def test_an_unknown_baseline(self, refused):
        message, hint = refused(baseline="dpi")
        assert message == "--baseline dpi is none of the runs."
        assert "Did you mean" in hint
        assert "dpo, ipo" in hint
