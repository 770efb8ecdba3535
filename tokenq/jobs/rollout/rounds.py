"""A round of an online run: written, judged, and what follows for learning, each on disk before the next.

`RUN/rounds/0001/` comes about in stages, and a kill in any of them loses at most a batch: the lines of what is written,
then those of what is judged (half-made files beside the outputs, one per process), then all files of the round with
`round.json` last. A round with that file is never touched again. Whatever is drawn depends on the seed, the round and
the prompts alone, and batches begin where they began before, so that what is done again comes out to the same bits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from tokenq.core.tensors import TokenScorer
from tokenq.errors import UserError
from tokenq.files import JsonLines, read_json, write_json, write_json_lines
from tokenq.jobs.outputs import Parts
from tokenq.jobs.rollout.clock import Clock
from tokenq.jobs.rollout.judges import judged, refuse_not_finite, response_logps
from tokenq.jobs.rollout.lessons.lesson import Learning
from tokenq.jobs.rollout.sampled import not_stale, refuse_all_stale, with_model_logps
from tokenq.jobs.rollout.stages import in_batches
from tokenq.jobs.rollout.words import NOTHING, said_of
from tokenq.jobs.rollout.writing.written import Writing
from tokenq.judge.kinds import Judge, Pairwise, Pointwise
from tokenq.judge.kinds import judgements as judgements_of
from tokenq.leftovers import remove
from tokenq.listener import Listener
from tokenq.records.episodes import Episode
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.episodes.rollouts import episode_numbers
from tokenq.rollout.learning import by_prompt
from tokenq.rollout.methods import OnlineMethod
from tokenq.rollout.rounds import Plan
from tokenq.rollout.summary import read_for_kl, round_numbers
from tokenq.rundir import RunDir
from tokenq.training.checks import together

DONE = "round.json"
"""The last file of a round: its numbers, and the key of all that it depends on."""

STAGES = ("rollouts.jsonl", "judgements.jsonl")
"""What is half-made in the first two stages of a round."""

EPISODES = "episodes.jsonl"
"""What was played, where an environment is acted in."""

COMPARISONS = "comparisons.jsonl"
"""What a person who judges a round fills in."""

_ORDER = 0xF00D
"""Sets the order of prompts apart from other draws of the same seed."""


@dataclass(frozen=True)
class RoundWork:
    """Everything that writes a round.

    Attributes:
        config: the settings, those of the method filled in.
        method: its row.
        writing: how the policy and others write, and to what.
        judge: says what a response is worth.
        policy: log π of the policy as it is.
        reference: log π_ref of the first reference.
        learning: what follows from judged responses.
        side_by_side: prompts that are written to, and judged, at a time.
        refresh: (version) → gives the policy's weights to a writer that is not in this process.
        keep_weights: keeps the policy's weights of the start of a round.
        run: the folder of the run.
        key: of all that rounds depend on.
        plan: when each round begins.
        counts: prompts of each round.
        accelerator: tells processes apart.
        listener: told what a round came to.
        heed: called before every batch; gives the round up where a signal asks for it.
        clock: measures where the time goes.
    """

    config: OnlineConfig
    method: OnlineMethod
    writing: Writing
    judge: Judge
    policy: TokenScorer
    reference: TokenScorer
    learning: Learning
    side_by_side: int
    refresh: Callable[[int], None]
    keep_weights: Callable[[int], None]
    run: RunDir
    key: str
    plan: Plan
    counts: Sequence[int]
    accelerator: Accelerator
    listener: Listener
    heed: Callable[[], None]
    clock: Clock = field(default_factory=Clock)

    def groups_of(self, number: int, at_start: bool) -> list[TokenGroup]:
        """Return what a round learns from; it is written where nobody has.

        Args:
            number: of the round, from 1.
            at_start: whether the policy is what it was when the round began.

        Raises:
            UserError: the round is not on disk and the policy has moved on, or nothing can be learnt from it and the
                run is to stop.
        """
        place = self.run.round(number)
        if self._numbers(place) is None and at_start:
            self._write(number, place)
        numbers = self._numbers(place)
        if numbers is None:
            raise UserError(f"{place} is incomplete, and the run has learnt from it.", "Restore it, or start anew.")
        if self.accelerator.is_main_process:
            for name in STAGES:  # a kill may have come between the last file and the first of these to go
                Parts(place / name, self.key).remove()
            self._tell(number, numbers)
        if not numbers[f"round/{self.learning.noun}"] and self.config.on_empty_round == "stop":
            raise UserError(
                f"Round {number} {NOTHING[self.learning.noun]}.",
                "Look at its rollouts, or go on with --on-empty-round continue.",
            )
        return self.learning.read(place)

    def _numbers(self, place: Path) -> Mapping[str, float | None] | None:
        """Return the numbers of a round, None where it is not done, or was another run's."""
        found = read_json(place / DONE) if (place / DONE).exists() else None
        return found["numbers"] if isinstance(found, dict) and found.get("key") == self.key else None

    def _tell(self, number: int, numbers: Mapping[str, float | None]) -> None:
        """Write the numbers of a round into `metrics.jsonl`, where they are not, and say them."""
        metrics, step = JsonLines(self.run.metrics), self.plan.starts()[number - 1]
        if any(line.get("round") == number for line in metrics.read()):
            return
        metrics.append({"step": step, "round": number, **numbers})
        for line in said_of(number, self.config.rounds, numbers, self.learning.noun):
            self.listener.say(line)

    def _write(self, number: int, place: Path) -> None:
        """Write, judge, and find what follows."""
        main = self.accelerator.is_main_process
        if main and (place / DONE).exists():  # of a run that was given up before its first step
            for path in place.iterdir():
                if path.name != COMPARISONS:  # what a person said of two texts holds whatever the settings are
                    remove(path)
        self.accelerator.wait_for_everyone()
        if main:
            self.keep_weights(number)
        chosen = self._chosen(number)
        with self.clock.of("writer"):
            self.refresh(self.plan.starts()[number - 1])
        written, judgements = (Parts(place / name, self.key) for name in STAGES)
        together(lambda: self._written(number, chosen, written), self.accelerator)
        together(lambda: self._judged(number, written, judgements), self.accelerator)
        self.accelerator.wait_for_everyone()
        together(lambda: self._finish(number, place, written, judgements) if main else None, self.accelerator)
        self.accelerator.wait_for_everyone()

    def _chosen(self, number: int) -> list[int]:
        """Return the prompts of a round: the next of a permutation, drawn anew when all have been gone through."""
        every, found = self.writing.prompts, list[int]()
        start = sum(self.counts[: number - 1])
        for place in range(start, start + self.counts[number - 1]):
            turn, at = divmod(place, every)
            found.append(int(np.random.default_rng([self.config.seed, turn, _ORDER]).permutation(every)[at]))
        return sorted(set(found))

    def _written(self, number: int, chosen: Sequence[int], parts: Parts) -> None:
        """Write what this process has to write, from where it stopped before."""

        def batch(places: Sequence[int]) -> list[dict[str, Any]]:
            version = self.plan.starts()[number - 1]
            written = self.writing.of_round(number, version, places)
            every = [one.rollouts for one in written]
            kept = [not_stale(some, version, self.config.max_staleness) for some in every]
            refuse_all_stale(every, kept, self.config.max_staleness)
            return [
                {
                    "rollouts": [one.to_dict() for one in some],
                    "stale": len(before.rollouts) - len(some),
                    "episodes": [one.to_dict() for one in before.episodes],
                }
                for before, some in zip(written, kept, strict=True)
            ]

        own, size = chosen[parts.mine], self.side_by_side
        in_batches(parts, own, size, batch, self.heed, self.listener, "writing")

    def _judged(self, number: int, written: Parts, judgements: Parts) -> None:
        """Judge what this process wrote, from where it stopped before."""

        def batch(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            rollouts = [[Rollout.from_dict(row) for row in line["rollouts"]] for line in lines]
            asked = [one for some in rollouts for one in some if one.compared]
            with self.clock.of("judge"):
                found = judged(self.judge, number, asked)
            if self.learning.takes_all and isinstance(self.judge, Pointwise):
                refuse_not_finite(asked, found)
            rewards = iter(found)
            return [{"rewards": [next(rewards) if one.compared else None for one in some]} for some in rollouts]

        own = list(map(json.loads, written.own()))
        in_batches(judgements, own, self.judged_together(len(own)), batch, self.heed, self.listener, "judging")

    def judged_together(self, count: int) -> int:
        """Return how many of so many prompts are judged at a time."""
        whole = isinstance(self.judge, Pairwise) and self.judge.whole
        return max(1, count) if whole else self.side_by_side

    def _finish(self, number: int, place: Path, written: Parts, judgements: Parts) -> None:
        """Write the responses with what they are worth, what is learnt from them, and the numbers."""
        config, rollouts, stale, episodes = self.config, list[Rollout](), 0, list[dict[str, Any]]()
        for line, said in zip(map(json.loads, written.in_order()), map(json.loads, judgements.in_order()), strict=True):
            stale += line["stale"]
            episodes += line["episodes"]
            for row, reward in zip(line["rollouts"], said["rewards"], strict=True):
                one = Rollout.from_dict(row)
                rollouts.append(replace(one, reward=reward, judge=config.judge if one.compared else None))
        lesson = self.learning.lesson(number, rollouts)
        for name, lines in lesson.files.items():
            write_json_lines(place / name, lines)
        write_json_lines(place / "rollouts.jsonl", (one.to_dict() for one in rollouts))
        if episodes:
            write_json_lines(place / EPISODES, episodes)
        numbers = self._of_writer(rollouts, lesson.counts)
        tokens = config.epochs * sum(group.n_tokens for group in lesson.groups)
        more = {**lesson.numbers, "stale": stale, "learnt_tokens": tokens}
        more |= episode_numbers([Episode.from_dict(one) for one in episodes]) if episodes else {}
        more |= self._judgements(number, [one for one in rollouts if one.compared])
        numbers |= {f"round/{name}": float(value) for name, value in more.items()}
        write_json(place / DONE, {"round": number, "key": self.key, "numbers": numbers})

    def _of_writer(self, rollouts: Sequence[Rollout], counts: Sequence[int]) -> dict[str, float]:
        """Return what a round says of the policy that wrote it."""
        where, budget = str(self.accelerator.device), self.config.tokens_per_batch
        ref_logps: list[float | None] = [None for _ in rollouts]
        with self.clock.of("trainer"):
            places = read_for_kl(rollouts)
            referred = self.learning.referred([rollouts[at] for at in places])
            read = response_logps(referred, self.reference, budget, where)
        for at, value in zip(places, read, strict=True):
            ref_logps[at] = value
        own = with_model_logps(rollouts, self.policy, where)
        numbers = round_numbers(own, ref_logps, counts, self.config.seed, self.learning.noun)
        if foreign := [one for one in rollouts if one.writer == "reference" and self.method.reference_moves == "never"]:
            logps = response_logps(foreign, self.policy, budget, where)
            numbers["round/logps_of_reference"] = sum(logps) / len(logps)
        return numbers

    def _judgements(self, number: int, rollouts: Sequence[Rollout]) -> dict[str, int]:
        """Return how many judgements a round took, and all rounds up to it."""
        asked = judgements_of(self.judge, by_prompt(rollouts))
        before = 0
        if number > 1:
            known = self._numbers(self.run.round(number - 1)) or {}
            before = int(known["round/judgements_so_far"] or 0)
        return {"judgements": asked, "judgements_so_far": before + asked}
