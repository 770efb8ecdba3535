"""Judges by name, in one table that online rounds and evaluations share.

A name with a file of Python in it is a function of the user's, any other name that is not in the table a chat model
behind an endpoint. To add a judge, write a function that makes it, a row of `JUDGES`, and its name
in `tokenq.options`. Imports no torch: who asks a chat model waits for none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenq.data.conditioning.control import Control
from tokenq.errors import UserError
from tokenq.judge.chat import QUESTION, ChatJudge
from tokenq.judge.endpoint import Endpoint
from tokenq.judge.function import called, load_function
from tokenq.judge.kinds import Judge, Pairwise, Pointwise, ranked
from tokenq.judge.person import PersonJudge
from tokenq.judge.prompt import Template
from tokenq.listener import SILENCE, Listener, Progress, silent
from tokenq.options import JudgeOptions, judge_kind

Scores = Callable[[int, Sequence[Any]], Sequence[float]]
"""(round, responses) → what each is worth."""


@dataclass(frozen=True)
class Bench:
    """What a judge may be made of.

    Attributes:
        config: the settings.
        answers: file that keeps what a chat model has said.
        comparisons: (round) → the file that a person fills in.
        correct: (id of a prompt, response) → 1 for the true answer, else 0; None where there is none.
        implicit: makes the function that gives β Σ log π/π_ref of responses; None where nothing could.
        returns: gives what an environment has given for responses; None where there is none.
        control: what prompts ask for; None where they ask for nothing.
        device: where models compute.
        trust_remote_code: whether code that comes with a model may run.
        tokens_per_batch: most tokens of a forward.
        seed: of the order in which a person sees two responses.
        template: the question that a chat model is asked.
        concurrency: questions under way at once.
        progress: told how many of them are answered.
        listener: told what there is to say.
        heed: called while a person is waited for; raises where nobody is to wait any longer.
    """

    config: JudgeOptions
    answers: Path
    comparisons: Callable[[int], Path]
    correct: Callable[[str, str], float] | None = None
    implicit: Callable[[], Scores] | None = None
    returns: Scores | None = None
    control: Control | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    tokens_per_batch: int = 4096
    seed: int = 0
    template: Template = QUESTION
    concurrency: int = 8
    progress: Progress = silent
    listener: Listener = SILENCE
    heed: Callable[[], None] = field(default=lambda: None)


def verifier(bench: Bench) -> Judge:
    """Return the judge that compares the answer of a response with the true one: 1 for the same, else 0."""
    correct = bench.correct
    if correct is None:
        raise UserError("There are no true answers to judge by.", "Name their column: --gold answer.")
    return Pointwise(lambda number, responses: [correct(one.id, one.response) for one in responses])


def reward_model(bench: Bench) -> Judge:
    """Return the judge that is a reward model; the first to need torch."""
    from tokenq.models.forward.pair_ranker import is_ranker, open_ranker
    from tokenq.models.load import ModelSpec
    from tokenq.models.reward_model import RewardModel

    config = bench.config
    spec = ModelSpec(str(config.reward_model), device=bench.device, trust_remote_code=bench.trust_remote_code)
    if is_ranker(spec):
        if config.reward_weights:
            raise UserError(f"{spec.path} compares two responses: it has no outputs.", "Leave --reward-weights out.")
        ranker = open_ranker(spec, bench.tokens_per_batch)
        return Pairwise(lambda number, comparisons: ranked(ranker.log_odds, comparisons))
    model = RewardModel(spec, config.reward_weights, bench.tokens_per_batch)

    def score(number: int, responses: Sequence[Any]) -> Sequence[float]:
        ended = [one.finish == "stop" for one in responses]
        return model.score([one.prompt for one in responses], [one.response for one in responses], ended)

    return Pointwise(score)


def attributes(bench: Bench) -> Judge:
    """Return the judge that says how likely a response has the levels its prompt asks for: log P(a|x, y)."""
    import torch

    from tokenq.core.steerlm import attribute_logps
    from tokenq.models.load import ModelSpec
    from tokenq.models.reward_model import RewardModel

    control = bench.control
    if control is None:
        raise UserError(
            "--judge attributes, and nothing asks for any.",
            "It belongs to tokenq online with a policy that was trained with --condition-on.",
        )
    names = control.attributes
    spec = ModelSpec(str(bench.config.reward_model), device=bench.device, trust_remote_code=bench.trust_remote_code)
    model = RewardModel(spec, dict.fromkeys(names, 1.0), bench.tokens_per_batch)

    def score(number: int, responses: Sequence[Any]) -> Sequence[float]:
        ended = [one.finish == "stop" for one in responses]
        ratings = model.outputs([one.prompt for one in responses], [one.response for one in responses], names, ended)
        wanted = torch.tensor([[one.condition[name] for name in names] for one in responses])
        found = attribute_logps(ratings.nan_to_num() - control.low, wanted - control.low, control.levels)
        return found.where(ratings.isfinite().all(-1), torch.nan).tolist()

    return Pointwise(score)


def implicit(bench: Bench) -> Judge:
    """Return the judge that is β Σ log π/π_ref of a policy and a reference: a DPO policy is a reward model."""
    if bench.implicit is None:
        raise UserError("--judge implicit without a --judge-run.", "Name a finished run: --judge-run runs/dpo.")
    return Pointwise(bench.implicit(), reads="tokens")


def returns(bench: Bench) -> Judge:
    """Return the judge that is the environment: the sum of the rewards of an episode."""
    if bench.returns is None:
        raise UserError("--judge return without episodes.", "Act in an environment: tokenq online --environment NAME.")
    return Pointwise(bench.returns)


def ask(bench: Bench) -> Judge:
    """Return the judge that is a person: a file of comparisons that somebody fills in."""
    return Pairwise(lambda number, comparisons: person(bench, number)(comparisons), whole=True)


def person(bench: Bench, number: int) -> PersonJudge:
    """Return what waits for a person in a round; the round is 0 outside of online runs."""
    return PersonJudge(bench.comparisons(number), bench.listener.say, bench.seed, bench.heed)


def function(bench: Bench) -> Judge:
    """Return the judge that is a function of the user's own."""
    name = str(bench.config.judge)
    own = load_function(name)

    def score(number: int, responses: Sequence[Any]) -> Sequence[float]:
        return called(own, name, [one.prompt for one in responses], [one.response for one in responses])

    return Pointwise(score)


def chat(bench: Bench) -> Judge:
    """Return the judge that is a chat model, asked in words and in both orders."""
    asked = chat_judge(bench)
    return Pairwise(lambda number, comparisons: asked(comparisons))


def chat_judge(bench: Bench) -> ChatJudge:
    """Return what asks a chat model."""
    endpoint = Endpoint(str(bench.config.judge), bench.config.base_url)
    return ChatJudge(endpoint, bench.answers, bench.template, concurrency=bench.concurrency, progress=bench.progress)


JUDGES: Mapping[str, Callable[[Bench], Judge]] = {
    "verifier": verifier,
    "reward_model": reward_model,
    "attributes": attributes,
    "implicit": implicit,
    "ask": ask,
    "return": returns,
    "function": function,
    "chat": chat,
}
"""Every kind of judge."""


def compares(config: JudgeOptions, judge: str) -> bool:
    """Return whether the judge of this name compares two responses, and gives no number to one."""
    kind = judge_kind(judge)
    if kind == "reward_model":
        from tokenq.models.forward.pair_ranker import is_ranker
        from tokenq.models.load import ModelSpec

        return is_ranker(ModelSpec(str(config.reward_model)))
    return kind in ("ask", "chat")


def judge_of(bench: Bench) -> Judge:
    """Return the judge that the settings name."""
    return JUDGES[judge_kind(str(bench.config.judge))](bench)
