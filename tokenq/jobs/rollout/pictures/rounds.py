"""A round of an image model: drawn, judged, and what follows for learning, each on disk before the next.

`RUN/rounds/0001/` holds the drawings with their files, what is learnt from them, and `round.json` last. What is drawn
depends on the seed, the round, the prompts and the weights: a round that was killed goes on to the same bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from tokenq.data.prompts import Prompt
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.rows import PictureGroup
from tokenq.diffusion.sampling import Steps
from tokenq.errors import UserError
from tokenq.files import JsonLines, read_json, write_json
from tokenq.jobs.drawing.config import DrawConfig
from tokenq.jobs.drawing.draw import Studio, draw_to_file
from tokenq.jobs.drawing.identity import image_identity
from tokenq.jobs.drawing.judge import PictureJudge
from tokenq.jobs.drawing.painter import Painter, warning_once
from tokenq.jobs.rollout.pictures.lessons import PictureLesson
from tokenq.jobs.rollout.rounds import DONE
from tokenq.jobs.rollout.words import NOTHING
from tokenq.listener import Event, Listener
from tokenq.records.drawings import Drawing, read_drawings
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.rounds import Plan
from tokenq.rundir import RunDir
from tokenq.training.checks import together

DRAWINGS = "drawings.jsonl"

_ORDER = 0xF00D
"""Sets the order of prompts apart from other draws of the same seed."""


@dataclass(frozen=True)
class _Bars:
    """Hands on how far a round is, and what is wrong, and leaves out what `tokenq draw` says at its end."""

    listener: Listener

    def say(self, text: str) -> None:
        """Hand on warnings."""
        if text.startswith("warning"):
            self.listener.say(text)

    def __call__(self, event: Event) -> None:
        """Hand on progress."""
        self.listener(event)


@dataclass(frozen=True)
class PictureRounds:
    """Everything that writes a round of pictures.

    Attributes:
        config: the settings, those of the method filled in.
        model: the policy; its weights are those of the moment.
        steps: how it draws.
        judge: says what a picture is worth.
        lesson: what follows from judged pictures.
        prompts: what is drawn.
        counts: prompts of each round.
        plan: when each round begins.
        run: the folder of the run.
        key: of all that rounds depend on.
        accelerator: tells processes apart.
        listener: told what a round came to.
        heed: called before every round; gives it up where a signal asks for it.
    """

    config: OnlineConfig
    model: ImageModel
    steps: Steps
    judge: PictureJudge
    lesson: PictureLesson
    prompts: Sequence[Prompt]
    counts: Sequence[int]
    plan: Plan
    run: RunDir
    key: str
    accelerator: Accelerator
    listener: Listener
    heed: Callable[[], None]

    def groups_of(self, number: int, at_start: bool) -> list[PictureGroup]:
        """Return what a round learns from; it is drawn where nobody has.

        Args:
            number: of the round, from 1.
            at_start: whether the policy is what it was when the round began.

        Raises:
            UserError: the round is not on disk and the policy has moved on, or nothing can be learnt from it and the
                run is to stop.
        """
        place = self.run.round(number)
        if self._numbers(place) is None and at_start:
            self.heed()
            main = self.accelerator.is_main_process
            together(lambda: self._write(number, place) if main else None, self.accelerator)
            self.accelerator.wait_for_everyone()
        numbers = self._numbers(place)
        if numbers is None:
            raise UserError(f"{place} is incomplete, and the run has learnt from it.", "Restore it, or start anew.")
        if self.accelerator.is_main_process:
            self._tell(number, numbers)
        if not numbers[f"round/{self.lesson.noun}"] and self.config.on_empty_round == "stop":
            raise UserError(
                f"Round {number} {NOTHING[self.lesson.noun]}.",
                "Look at its drawings, or go on with --on-empty-round continue.",
            )
        return self.lesson.read(place, list(read_drawings(place / DRAWINGS)))

    def _numbers(self, place: Path) -> Mapping[str, float] | None:
        """Return the numbers of a round, None where it is not done, or was another run's."""
        found = read_json(place / DONE) if (place / DONE).exists() else None
        return found["numbers"] if isinstance(found, dict) and found.get("key") == self.key else None

    def _tell(self, number: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of a round into `metrics.jsonl`, where they are not, and say them."""
        metrics, step, noun = JsonLines(self.run.metrics), self.plan.starts()[number - 1], self.lesson.noun
        if any(line.get("round") == number for line in metrics.read()):
            return
        metrics.append({"step": step, "round": number, **numbers})
        count = int(numbers[f"round/{noun}"])
        self.listener.say(
            f"round {number} of {self.config.rounds}: reward {numbers['round/reward']:.4g}, {count} {noun} from "
            f"{int(numbers['round/prompts'])} prompts"
        )
        if not count:
            self.listener.say(f"warning: round {number} {NOTHING[noun]}; nothing is learnt from it")

    def _write(self, number: int, place: Path) -> None:
        """Draw, judge, and find what follows."""
        path = place / DRAWINGS
        draw_to_file(path, self._studio(number, path), self._chosen(number), _Bars(self.listener))
        drawings = list(read_drawings(path))
        numbers = {**_of_drawings(drawings), **self.lesson.write(place, drawings)}
        told = {f"round/{name}": value for name, value in numbers.items()}
        write_json(place / DONE, {"round": number, "key": self.key, "numbers": told})

    def _studio(self, number: int, path: Path) -> Studio:
        """Return what draws a round: the policy as it is."""
        config, samples = self.config, self.config.samples_of_prompt
        seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
        asked = DrawConfig(
            model=str(config.model),
            prompts=list(config.prompts),
            output=str(path),
            samples=samples,
            steps=self.steps.count,
            eta=self.steps.eta,
            guidance=self.steps.guidance,
            judge=self.judge.name,
            batch_size=config.images_per_batch,
            seed=seed,
        )
        identity = image_identity(self.model, f"{config.model} at round {number}")
        painter = Painter(self.model, self.steps, identity, warning_once(self.listener))
        return Studio(asked, painter, None, self.judge, max(1, config.images_per_batch // samples))

    def _chosen(self, number: int) -> list[Prompt]:
        """Return the prompts of a round: the next of a permutation, drawn anew when all have been gone through."""
        every, found = len(self.prompts), list[int]()
        start = sum(self.counts[: number - 1])
        for place in range(start, start + self.counts[number - 1]):
            turn, at = divmod(place, every)
            found.append(int(np.random.default_rng([self.config.seed, turn, _ORDER]).permutation(every)[at]))
        return [self.prompts[place] for place in sorted(set(found))]


def _of_drawings(drawings: Sequence[Drawing]) -> dict[str, float]:
    rewards = np.array([one.reward for one in drawings], np.float64)
    length = float(np.mean([len(one.logps) for one in drawings]))
    prompts = float(len({one.id for one in drawings}))
    told = {"reward": float(rewards.mean()), "reward_std": float(rewards.std())}
    return {**told, "prompts": prompts, "drawings": float(len(drawings)), "length": length}
