"""One episode that is being played: what was said and done so far, and how it ends."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tokenq.data.dialogue import Dialogue, DialogueState
from tokenq.envs.environment import Observation, Step
from tokenq.envs.guarded import EpisodeFailed, Guarded, guarded
from tokenq.errors import UserError, reason
from tokenq.files import plain
from tokenq.records.episodes import Episode, Reason, Turn, told
from tokenq.records.rollouts import Distribution
from tokenq.rollout.episodes.game import Game, Planned, Player, Rules, Spent, Start
from tokenq.rollout.writer import Sample


@dataclass
class Seat:
    """An episode that is being played.

    Attributes:
        game: what is played.
        start: how it begins.
        player: who plays.
        rules: how.
        spent: is told what it costs.
        environment: answers actions.
        state: the conversation in front of the next action.
        turns: what was said and done.
        observation: what was said last.
        reason: how it ended; None while it goes on.
        error: what the environment failed with.
        luck: what draws have added to the return.
        cut: turns that were left out, as the context was full.
        version: updates of the weights that wrote, where the writer says so.
        logps_of: which distribution its log-probs are of.
        plan: the return of the best line that a search has seen, and the actions that lead to it, the last one that was
            taken among them.
    """

    game: Game
    start: Start
    player: Player
    rules: Rules
    spent: Spent
    environment: Guarded = field(init=False)
    state: DialogueState = field(init=False)
    turns: list[Turn] = field(default_factory=list)
    observation: Observation | None = None
    reason: Reason | None = None
    error: str | None = None
    luck: float = 0.0
    cut: int = 0
    version: int | None = None
    logps_of: Distribution = "model"
    plan: tuple[float, tuple[Planned, ...]] | None = None

    def begin(self, opened: contextlib.ExitStack) -> None:
        """Hear the first observation; the environment is closed with the stack."""
        with self.spent.on("acting"):
            try:
                self.environment = guarded(self.game.make, self.rules.step_timeout)
                opened.callback(self.environment.close)
                self.observation = self.environment.reset(self.start.seed)
            except EpisodeFailed as problem:
                self.reason, self.error = "timeout" if problem.timeout else "error", problem.message
                return
            except UserError:  # it lacks something: no episode could begin
                raise
            except Exception as problem:  # whoever wrote the environment may raise what they like
                self.reason, self.error = "error", f"{type(problem).__name__}: {reason(problem)}"
                return
        self.state = self.player.dialogue.start(self.observation)
        for turn in self.start.past:
            self.act(Sample(turn.action_ids, turn.logps, turn.kept_mass, turn.finish))

    def goes_on(self) -> bool:
        """Return whether another action is to be written; the context may have no room for it."""
        if self.reason is None and self.rules.context is not None:
            if self.rules.when_full == "cut":
                self.state, left_out = shortened(
                    self.player.dialogue, self.state, self.rules.context - self.rules.max_new_tokens
                )
                self.cut += left_out
            if len(self.state.ids) >= self.rules.context:
                self.reason = "context"
                if not self.turns:
                    tokens = len(self.state.ids)
                    self.error = f"it begins with {tokens} tokens, and {self.rules.context} are read at most"
        return self.reason is None

    def act(self, sample: Sample) -> None:
        """Take an action to the environment, and hear what it says."""
        pieces = tuple(self.player.pieces(self.state.ids, sample.token_ids))
        action = "".join(pieces)
        with self.spent.on("acting"):
            step = self.environment.step(action)
        self.turns.append(self._turn(sample, pieces, step))
        self.observation, self.luck = step.observation, self.luck + float(step.info.get("luck", 0.0))
        self.version, self.logps_of = sample.version, sample.logps_of
        self.reason = _reason(step, over=len(self.turns) >= self.rules.max_turns)
        if self.reason in ("error", "timeout"):
            self.observation, self.error = None, str(step.info["error"])
        if self.reason is None:
            self.state = self.player.dialogue.extend(self.state, sample.token_ids, action, step.observation)

    def _turn(self, sample: Sample, pieces: tuple[str, ...], step: Step) -> Turn:
        assert self.observation is not None  # an episode without one has ended
        return Turn(
            observation=told(self.observation),
            observation_ids=self.state.observation_ids,
            action="".join(pieces),
            action_ids=sample.token_ids,
            logps=sample.logps,
            finish=sample.finish,
            reward=float(step.reward) + 0.0,  # of −0 too
            pieces=pieces,
            starts_over=self.state.starts_over,
            kept_mass=sample.kept_mass,
            info=_info(step.info) | ({"cut_turns": self.cut} if self.cut else {}),
        )

    def episode(self) -> Episode:
        """Return what was played."""
        game, player, search = self.game, self.player, self.rules.search
        success = self.turns[-1].info.get("success") if self.turns else None
        assert self.reason is not None  # it is over
        return Episode(
            id=f"{game.name} seed {self.start.seed}",
            environment=game.name,
            options=dict(game.options),
            seed=self.start.seed,
            number=self.start.number,
            turns=tuple(self.turns),
            observation=None if self.observation is None else told(self.observation),
            terminal=self.reason == "terminated",
            reason=self.reason,
            success=None if success is None else bool(success),
            luck=self.luck,
            writer=player.name,
            version=player.version if self.version is None else self.version,
            sampling={**vars(self.rules.sampling), **({} if search is None else {"search": vars(search)})},
            engine=player.writer.engine,
            logps_of=self.logps_of,
            instructions=game.instructions,
            tools=game.tools,
            error=self.error,
        )


def _reason(step: Step, *, over: bool) -> Reason | None:
    if "error" in step.info:
        return "timeout" if step.info.get("timeout") else "error"
    if step.terminated:
        return "terminated"
    return "truncated" if step.truncated else "turn limit" if over else None


def _info(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of what an environment said beside; what else it holds is its own."""
    found = {}
    for name, value in info.items():
        with contextlib.suppress(TypeError, ValueError):
            found[str(name)] = json.loads(json.dumps(plain(value), allow_nan=False))
    return found


def shortened(dialogue: Dialogue, state: DialogueState, room: int) -> tuple[DialogueState, int]:
    """Return a conversation that leaves out the oldest turns behind the first observation, and how many it leaves out.

    The last action and what was said to it stay, whether they fit or not. What is left is written anew.

    Args:
        dialogue: writes it.
        state: the conversation in front of an action.
        room: most tokens that it may have.
    """
    said = state.turns[len(dialogue.instructions) :]
    acts = [place for place, one in enumerate(said) if one.role == "assistant"]
    left_out, found = 0, state
    while len(found.ids) > room and left_out < len(acts) - 1:
        left_out += 1
        found = replace(dialogue.start((*said[: acts[0]], *said[acts[left_out] :])), starts_over=True)
    return found, left_out
