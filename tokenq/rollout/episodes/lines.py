"""What could be done from where an episode is: lines of whole actions, tried in copies of the environment."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenq.data.dialogue import DialogueState
from tokenq.envs.environment import Environment, copy_of
from tokenq.rollout.episodes.game import Planned, Player, Rules, Spent, Worth
from tokenq.rollout.episodes.seat import Seat
from tokenq.rollout.writer import Sample
from tokenq.search.sampling import mixed_seed


@dataclass(eq=False)
class Line:
    """An action that could be taken, with those before it.

    Attributes:
        seat: the episode.
        parent: the line before the action; None where the episode is now.
        sample: the action.
        action: its text.
        turn: actions taken, those of the episode among them.
        total: rewards so far, those of the episode among them; those of the action once it was tried.
        implicit: Σ β log π/π_ref of the line's actions, where they were read.
        environment: after the action, once it was tried.
        state: the conversation behind it, unless it is over.
        over: whether nothing follows.
        value: what the line is worth.
        best: the largest value below it.
        visits: simulations that came through.
        children: what could follow.
        solved: whether everything that was proposed below it is over.
    """

    seat: Seat
    parent: "Line | None" = None
    sample: Sample | None = None
    action: str = ""
    turn: int = 0
    total: float = 0.0
    implicit: float = 0.0
    environment: Environment | None = None
    state: DialogueState | None = None
    over: bool = False
    value: float = float("-inf")
    best: float = float("-inf")
    visits: int = 0
    children: list["Line"] = field(default_factory=list)
    solved: bool = False

    def steps(self) -> tuple[Planned, ...]:
        """Return the actions from where the episode is, and what each of them has led to."""
        if self.parent is None or self.sample is None:
            return ()
        ids = None if self.state is None else self.state.ids
        return (*self.parent.steps(), Planned(self.sample, ids, self.total))


@dataclass(frozen=True)
class Scene:
    """With what lines are tried.

    Attributes:
        player: proposes actions.
        rules: how it is played.
        spent: is told what it costs.
        opened: closes the environments that were copied.
    """

    player: Player
    rules: Rules
    spent: Spent
    opened: contextlib.ExitStack


def root_of(seat: Seat) -> Line:
    """Return the line of no action, where an episode is."""
    total = sum(turn.reward for turn in seat.turns)
    return Line(seat, turn=len(seat.turns), total=total, environment=seat.environment, state=seat.state)


def propose(lines: Sequence[Line], count: int, scene: Scene) -> list[list[Line]]:
    """Return different actions that could follow each line, the first the one that would be written without a search.

    Args:
        lines: not over.
        count: actions that are drawn for each.
        scene: with what.
    """
    states = [line.state for line in lines]
    prompts = [state.ids for state in states if state is not None]
    starts = [line.seat.start for line in lines]
    seeds = [
        mixed_seed(scene.rules.seed, (start.seed, start.number, line.turn), 0)
        for line, start in zip(lines, starts, strict=True)
    ]
    with scene.spent.on("writing"):
        written = scene.player.writer.write(prompts, count, scene.rules.sampling, seeds)
    scene.spent.read += sum(map(len, prompts))
    scene.spent.written += sum(len(one.token_ids) for samples in written for one in samples)
    found = []
    for line, prompt, samples in zip(lines, prompts, written, strict=True):
        different: dict[str, Sample] = {}
        for sample in samples:
            different.setdefault("".join(scene.player.pieces(prompt, sample.token_ids)), sample)
        found.append([Line(line.seat, line, one, text, line.turn + 1) for text, one in different.items()])
    return found


def tried(lines: Sequence[Line], scene: Scene) -> None:
    """Take the action of each line in a copy of its environment."""
    for line in lines:
        parent = line.parent
        if line.environment is not None or parent is None or parent.environment is None or parent.state is None:
            continue
        with scene.spent.on("acting"):
            line.environment = copy_of(parent.environment)
            scene.opened.callback(line.environment.close)
            step = line.environment.step(line.action)
        line.total = parent.total + float(step.reward)
        line.over = step.terminated or step.truncated or line.turn >= scene.rules.max_turns
        if not line.over and line.sample is not None:
            said = line.sample.token_ids
            line.state = scene.player.dialogue.extend(parent.state, said, line.action, step.observation)
            line.over = scene.rules.context is not None and len(line.state.ids) >= scene.rules.context
        line.solved = line.over


def read(lines: Sequence[Line], worth: Worth) -> None:
    """Add what both models say of the action of each line."""
    given = [
        (line.parent.state.ids, line.sample.token_ids)
        for line in lines
        if line.parent is not None and line.parent.state is not None and line.sample is not None
    ]
    for line, added in zip(lines, worth(given), strict=True):
        line.implicit = added + (line.parent.implicit if line.parent is not None else 0.0)


def to_the_end(lines: Sequence[Line], scene: Scene) -> list[Line]:
    """Return each line as the policy would go on with it, tried to its end, all of them side by side."""
    found = list(lines)
    tried(found, scene)
    while places := [place for place, line in enumerate(found) if not line.over]:
        after = [one[0] for one in propose([found[place] for place in places], 1, scene)]
        tried(after, scene)
        for place, line in zip(places, after, strict=True):
            found[place] = line
    return found
