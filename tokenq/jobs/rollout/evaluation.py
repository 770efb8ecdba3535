"""What the policy writes to prompts that it does not learn from, before the first round and after every one.

`RUN/rounds/0000/` holds that of the start, `RUN/rounds/0001/` that after the first round, in stages as a round has them
(`tokenq.jobs.rollout.rounds`): the greedy response to every prompt, what it is worth, and the numbers, `eval.json`
last. Nothing here is drawn, so that whoever goes on after a kill comes to the same bits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tokenq.files import JsonLines, read_json, write_json, write_json_lines
from tokenq.jobs.outputs import Parts
from tokenq.jobs.rollout.judges import judged
from tokenq.jobs.rollout.rounds import RoundWork
from tokenq.jobs.rollout.stages import in_batches
from tokenq.jobs.training.coverage import coverage_numbers, covered, said_of_coverage
from tokenq.judge.kinds import Judge
from tokenq.judge.tasks import AnswerTask
from tokenq.leftovers import remove
from tokenq.records.episodes import Episode
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.report.rounds.page import write_rounds_page
from tokenq.rollout.episodes.rollouts import episode_numbers
from tokenq.rollout.summary import Judged, evaluation_numbers, judge_numbers, preference
from tokenq.stats.coverage import Coverage
from tokenq.training.checks import together

DONE = "eval.json"
"""The last file of an evaluation: its numbers, and the key of all that it depends on."""

TIMES = "times.json"
"""Seconds of the round by what took them, of the process that ended it."""

ROWS = "eval.jsonl"
"""The responses with what they are worth."""

PLAYED = "eval-episodes.jsonl"
"""What was played, where an environment is acted in."""

STAGES = ("eval-rollouts.jsonl", "eval-judgements.jsonl", "eval-known.jsonl")
"""What is half-made."""

KNOWN = "known_pairs.jsonl"
"""Pairs whose preference is known, with what the judge says of them."""


class Judging(NamedTuple):
    """How responses to held-out prompts are judged.

    Attributes:
        judge: the judge of the run.
        relative: whether it only says how responses to one prompt compare.
        moves: whether it is another judge in every round, so that its numbers of two rounds do not compare.
        task: true answers of these prompts, None where there are none.
    """

    judge: Judge
    relative: bool
    moves: bool
    task: AnswerTask | None


@dataclass(frozen=True)
class Evaluation:
    """Everything that evaluates the policy of a run in rounds.

    Attributes:
        work: what writes the rounds, with the settings.
        prompts: how many are held out; none where nothing is evaluated.
        judging: how the responses are judged.
        known: (chosen, rejected) of pairs whose preference is known, to judge the judge by.
    """

    work: RoundWork
    prompts: int
    judging: Judging
    known: Sequence[tuple[Rollout, Rollout]]

    def groups_of(self, number: int, at_start: bool) -> list[TokenGroup]:
        """Return what a round learns from, as `RoundWork.groups_of`; at its start the round before is evaluated."""
        with self.work.clock.of("outside"):
            if at_start:
                self.after(number - 1)
            found = self.work.groups_of(number, at_start)
            if at_start and self.work.accelerator.is_main_process:
                write_rounds_page(self.work.run)
        self.work.clock.turn("trainer")
        return found

    def finish(self) -> None:
        """Evaluate the policy after the last round, and say where the page is."""
        with self.work.clock.of("outside"):
            self.after(self.work.config.rounds)
        if self.work.accelerator.is_main_process:
            self.work.listener.say(f"page: {write_rounds_page(self.work.run)}")

    def after(self, number: int) -> None:
        """Evaluate the policy as it is after so many rounds, where nobody has, and tell what came of it."""
        if self.prompts:
            self._evaluate(number)
        if self.work.accelerator.is_main_process and (number or self.prompts):
            times = self.work.run.round(number) / TIMES
            seconds = self.work.clock.read()
            if not times.exists():
                write_json(times, seconds)
            self._tell(number, {**(self._numbers(number) or {}), **read_json(times)})

    def _covered(self, number: int) -> Coverage | None:
        """Return how much of what the policy plays the pairs of a round of episodes show."""
        work = self.work
        if not number or work.config.environment is None:
            return None
        where, budget = str(work.accelerator.device), work.config.tokens_per_batch
        return covered(work.learning.read(work.run.round(number)), work.policy, budget, where)

    def _evaluate(self, number: int) -> None:
        place, main = self.work.run.round(number), self.work.accelerator.is_main_process
        written, judgements, known = (Parts(place / name, self.work.key) for name in STAGES)
        if self._numbers(number) is None:
            remove(place / TIMES)  # of a run that was given up
            self.work.accelerator.wait_for_everyone()
            self.work.refresh(self.work.plan.starts()[number])
            together(lambda: self._written(number, written), self.work.accelerator)
            together(lambda: self._judged(number, written, judgements), self.work.accelerator)
            together(lambda: self._judge_known(number, known), self.work.accelerator)
            self.work.accelerator.wait_for_everyone()
            together(lambda: self._finish(number, written, judgements, known) if main else None, self.work.accelerator)
            self.work.accelerator.wait_for_everyone()
        if main:
            for parts in (written, judgements, known):
                parts.remove()

    def _numbers(self, number: int) -> Mapping[str, float | None] | None:
        place = self.work.run.round(number) / DONE
        found = read_json(place) if place.exists() else None
        return found["numbers"] if isinstance(found, dict) and found.get("key") == self.work.key else None

    def _written(self, number: int, parts: Parts) -> None:
        work, version = self.work, self.work.plan.starts()[number]

        def batch(places: Sequence[int]) -> list[Any]:
            found = work.writing.of_evaluation(version, places)
            return [
                {"rollout": one.rollouts[0].to_dict(), "episodes": [own.to_dict() for own in one.episodes]}
                for one in found
            ]

        own = range(self.prompts)[parts.mine]
        in_batches(parts, own, work.side_by_side, batch, work.heed, work.listener, "writing")

    def _judged(self, number: int, written: Parts, judgements: Parts) -> None:
        work, earlier = self.work, self._earlier(number)

        def ask(rollouts: Sequence[Rollout]) -> list[float | None]:
            with work.clock.of("judge"):
                return judged(self.judging.judge, number + 1, rollouts)

        def batch(rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
            if not self.judging.relative:
                return [{"reward": reward} for reward in ask(rollouts)]
            lines: list[dict[str, Any]] = [{"reward": None, "won": {}} for _ in rollouts]
            for before, known in earlier.items():
                pairs = [pair for one in rollouts for pair in (one, replace(known[one.id], number=1, reward=None))]
                rewards = ask(pairs)
                for line, own, other in zip(lines, rewards[::2], rewards[1::2], strict=True):
                    line["won"][str(before)] = preference(own, other)
            return lines

        own = [Rollout.from_dict(json.loads(line)["rollout"]) for line in written.own()]
        in_batches(judgements, own, work.judged_together(len(own)), batch, work.heed, work.listener, "judging")

    def _earlier(self, number: int) -> dict[int, dict[str, Rollout]]:
        """Return what the policy wrote at the start and after the round before, by the names of the prompts."""
        known = {one: JsonLines(self.work.run.round(one) / ROWS).read() for one in (0, number - 1) if 0 <= one < number}
        return {one: {row["id"]: Rollout.from_dict(row) for row in rows} for one, rows in known.items()}

    def _judge_known(self, number: int, parts: Parts) -> None:
        """Judge pairs whose preference is known; a judge that never changes does it once."""
        work = self.work

        def batch(pairs: Sequence[tuple[Rollout, Rollout]]) -> list[dict[str, Any]]:
            with work.clock.of("judge"):
                rewards = judged(self.judging.judge, number + 1, [one for pair in pairs for one in pair])
            return [{"rewards": both} for both in zip(rewards[::2], rewards[1::2], strict=True)]

        asked = self.known if number == 0 or self.judging.moves else ()
        own = list(asked)[parts.mine]
        in_batches(parts, own, work.judged_together(len(own)), batch, work.heed, work.listener, "judging")

    def _accuracy(self, number: int, parts: Parts) -> dict[str, float | None]:
        """Write what the judge says of known pairs, and return how often it is right."""
        said = [json.loads(line)["rewards"] for line in parts.in_order()]
        if not said:
            earlier = self._numbers(0) or {} if number and self.known else {}
            return {name: value for name, value in earlier.items() if name.startswith("eval/judge_")}
        rows = (
            {"prompt": chosen.to_dict()["prompt"], "chosen": chosen.response, "rejected": rejected.response}
            | {"score_chosen": one, "score_rejected": other}
            for (chosen, rejected), (one, other) in zip(self.known, said, strict=True)
        )
        write_json_lines(self.work.run.round(number) / KNOWN, rows)
        return dict(judge_numbers([preference(one, other) for one, other in said]))

    def _finish(self, number: int, written: Parts, judgements: Parts, known_parts: Parts) -> None:
        earlier, task = self._earlier(number), self.judging.task
        rows, episodes = list[Judged](), list[dict[str, Any]]()
        for line, said in zip(map(json.loads, written.in_order()), map(json.loads, judgements.in_order()), strict=True):
            episodes += line["episodes"]
            one = replace(Rollout.from_dict(line["rollout"]), reward=said["reward"], judge=self.work.config.judge)
            won = {int(name): share for name, share in said.get("won", {}).items()}
            if not self.judging.relative and not self.judging.moves:
                won = {before: preference(one.reward, known[one.id].reward) for before, known in earlier.items()}
            right = None if task is None else task.correct(one.id, one.response)
            rows.append(Judged(one, won.get(0), won.get(number - 1), right))
        place = self.work.run.round(number)
        lines = (
            row.rollout.to_dict() | {"won_start": row.start, "won_last": row.last, "correct": row.correct}
            for row in rows
        )
        write_json_lines(place / ROWS, lines)
        numbers = evaluation_numbers(rows, self.work.config.seed) | self._accuracy(number, known_parts)
        if episodes:
            write_json_lines(place / PLAYED, episodes)
            played = episode_numbers([Episode.from_dict(one) for one in episodes])
            numbers |= {f"eval/{name}": value for name, value in played.items()}
        write_json(place / DONE, {"round": number, "key": self.work.key, "numbers": numbers})

    def _tell(self, number: int, numbers: Mapping[str, float | None]) -> None:
        """Write the numbers into `metrics.jsonl`, where they are not, and say them."""
        metrics = JsonLines(self.work.run.metrics)
        if any(line.get("after_round") == number for line in metrics.read()):
            return
        coverage = self._covered(number)
        watched = {} if coverage is None else coverage_numbers(coverage)
        metrics.append({"step": self.work.plan.starts()[number], "after_round": number, **numbers, **watched})
        for line in [] if coverage is None else said_of_coverage(coverage):
            self.work.listener.say(line)
        if not self.prompts:
            return
        known = {name: words for name, words in _SAID.items() if numbers.get(f"eval/{name}") is not None}
        if self.work.config.judge == "verifier":
            del known["reward"]  # the accuracy
        parts = [f"{words} {_shown(numbers, name)}" for name, words in known.items()]
        when = f"after round {number}" if number else "before round 1"
        self.work.listener.say(f"{when}, {self.prompts} held-out prompts: {', '.join(parts) or 'no judgement'}")


_SAID = {
    "reward": "reward",
    "accuracy": "accuracy",
    "success": "success",
    "won_start": "won against the start",
    "won_last": "won against the round before",
    "judge_accuracy": "the judge is right in",
    "length": "tokens per response",
}


def _shown(numbers: Mapping[str, float | None], name: str) -> str:
    value, low, high = (numbers.get(f"eval/{name}{end}") for end in ("", "_low", "_high"))
    ends = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return f"{value:.4g}{ends}"
