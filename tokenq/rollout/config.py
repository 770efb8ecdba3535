"""The settings of an online run: those of a training, and what is written, judged and learnt from. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.options import ConditionOptions, JudgeOptions
from tokenq.ranges import Range, check_ranges
from tokenq.rollout.credits import CreditOptions
from tokenq.rollout.episodes.learning import RANGES as EPISODE_RANGES
from tokenq.rollout.episodes.learning import RETURN, EpisodeOptions, environment_lacks
from tokenq.rollout.lessons.lacks import learning_lacks
from tokenq.rollout.methods import METHODS, find_method
from tokenq.rollout.sync import WriterOptions, refuse_writer
from tokenq.training.config import RANGES as TRAINING_RANGES
from tokenq.training.config import SECTIONS as TRAINING
from tokenq.training.config import SPELT_ELSEWHERE as SPELT_IN_TRAINING
from tokenq.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(EpisodeOptions, ConditionOptions, JudgeOptions, WriterOptions, CreditOptions, TrainConfig):
    """Learn from one's own responses: rounds of writing, judging and training, on pairs or by policy gradients."""

    prompts: Sequence[str] = field(metadata={"instead": "environment"})
    """Prompts to write to: a column prompt, messages, question or instruction, or any data that tokenq train reads.
    None with an --environment."""
    data: Sequence[str] = ()
    """Pairs that are there before the first round. They are learnt from where the method replays earlier pairs; selm
    compares what it writes with the responses that they hold for the same prompt. With an --environment: episodes of
    an expert (tokenq play --output), which eto compares with the policy's own."""
    eval_prompts: Sequence[str] = ()
    """Prompts to evaluate on, in the same forms as --prompts: the policy writes its greedy response to each before the
    first round and after every one, and the judge says what it is worth."""
    eval_size: float = 0
    """Prompts to hold out of --prompts for that, when there are no --eval-prompts; below 1 a share, chosen by their
    hashes. Pairs are held out of --data likewise. With an --environment: so many seeds after those that rounds play."""
    loss: str = "auto"
    """Loss, or a sum of several, instead of the method's own."""
    beta: float | None = None
    """Temperature of the KL penalty: that of a loss of pairs, or the weight of --kl. Default: the method's, else the
    loss's own."""

    batch_size: int | None = None  # type: ignore[assignment]  # filled in before a training reads it
    """Examples per optimiser step, over all processes: pairs, or responses with advantages. Default: 8 pairs, or 32
    responses."""

    method: str = "dpo"
    """Online method. From pairs: dpo, ipo, selm, vpo, xpo, dice; of episodes: dmpo, eto, branches. From advantages:
    reinforce, rloo, grpo, dr_grpo, dapo, gspo, ppo, prime, rto. From weighted responses: steerlm."""
    rounds: int = 3
    """Rounds of writing, judging and learning."""
    prompts_per_round: int | None = None
    """Prompts of a round, in turn. Default: all."""
    epochs: float = 1.0
    """Passes over the pairs, or responses, of each round."""
    replay: float | None = None
    """Share of what a round learns from that comes from --data and earlier rounds; 1 for all of them. Default: the
    method's."""
    reference_moves: Literal["auto", "never", "round"] = "auto"
    """When the reference becomes the policy: never, or at the start of each round. auto: as the method has it."""
    on_empty_round: Literal["continue", "stop"] = "continue"
    """What to do when a round gives no pair, or no advantage."""

    samples: int | None = None
    """Responses to each prompt, or episodes of each seed, that are compared. Default: the method's."""
    max_new_tokens: int | None = None
    """Maximum number of tokens in a response, or in an action. Default: 256, or the environment's."""
    temperature: float | None = None
    """Temperature of samples. Default: the method's."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0 for all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens only that together have this probability."""
    eos: Sequence[str] = ()
    """Further tokens that end a response, as text: one token each."""
    prompts_per_batch: int | None = None
    """Prompts that are written to side by side. Default: as many as give 512 responses; fewer for a larger model."""

    image_steps: int = 20
    """Images: denoising steps of a picture."""
    image_eta: float = 1.0
    """Images: how much noise a step adds, above 0; 1 is as much as DDPM adds."""
    image_guidance: float | None = None
    """Images: scale of classifier-free guidance, which is drawn with and trained; 1 is none. Default: that of the
    model's training, else 1."""

    judge: str | None = None
    """Judge: verifier (the true answers of --gold), reward_model, attributes (how likely the response has the levels
    that its prompt asks for, by the outputs of a --reward-model), implicit (β log π/π_ref of --judge-run, else of the
    policy against the round before), ask (a person, who fills in a file of comparisons), FILE.py:FUNCTION
    (prompts, responses → their rewards), return (the sum of an episode's rewards), or the name of a chat model behind
    an OpenAI-compatible endpoint; OPENAI_BASE_URL and OPENAI_API_KEY say which. Default: the method's own, else
    --reward-model, --judge-run, the return or the true answers, whichever is given."""
    answer: str | None = None
    """How the answer of a response is found: last_number, boxed, math, text or regex:PATTERN."""
    gold: str | None = None
    """Column of the true answer, read as responses are."""
    label_budget: int | None = None
    """Judgements that all rounds together may take: responses that are given a number, or comparisons of two, whichever
    the judge makes. The run ends with the prompts that they pay for. Default: as many as it takes."""
    flip_labels: float = 0.0
    """Probability that a pair is turned round before it is learnt from: noise that the judge does not have."""
    pairs: Literal["auto", "best_worst", "all", "bradley_terry", "length_regularised", "shared_prefix"] = "auto"
    """Which pairs rewards give: the best against the worst, every two, labels drawn by Bradley-Terry, both sides
    equally long (DICE), or episodes that begin alike, from where they part. auto: as the method has it."""
    truncated: Literal["keep", "drop", "mask", "zero", "bootstrap"] = "keep"
    """Responses that are cut at --max-new-tokens: take them as they are, or leave them out. With advantages also: learn
    nothing from them (mask), give them the reward 0, or add the value of their last state (bootstrap, for gae)."""

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            UserError: names the field, and what it takes.
        """
        self.check_types()
        for error in environment_lacks(self):
            raise error
        check_ranges(self, RANGES)
        refuse_writer(self, adapts=self.adapts)
        find_method(self.method)
        for error in (*self.contradictions(), *self._without_rounds(), *learning_lacks(self), *self._judging()):
            raise error

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained."""
        return self.lora_rank > 0 or self.adapter is not None

    @property
    def samples_of_prompt(self) -> int:
        """Responses to each prompt that are compared."""
        return find_method(self.method).samples if self.samples is None else self.samples

    @property
    def tokens_of_response(self) -> int:
        """Most tokens of a response, or of an action."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return RESPONSE if self.environment is None else find_environment(self.environment).max_new_tokens

    @property
    def examples_of_step(self) -> int:
        """Examples of an optimiser step."""
        return find_method(self.method).batch_size if self.batch_size is None else self.batch_size

    @property
    def sampling_temperature(self) -> float:
        """Temperature of samples."""
        return find_method(self.method).temperature if self.temperature is None else self.temperature

    @property
    def replayed_share(self) -> float:
        """Share of what a round learns from that comes from earlier pairs."""
        return find_method(self.method).replay if self.replay is None else self.replay

    @property
    def judged_by(self) -> str:
        """The judge by its name."""
        if self.judge is not None:
            return self.judge
        given = {"reward_model": self.reward_model, "implicit": self.judge_run}
        last = "verifier" if self.environment is None else RETURN
        named = next((name for name, value in given.items() if value is not None), last)
        return METHODS[self.method].judge or named

    def _judging(self) -> list[UserError]:
        """Return what the judge lacks."""
        found = self.judge_lacks(self.judged_by)
        if self.judged_by == "verifier" and (self.answer is None or self.gold is None):
            hint = (
                "Give --answer last_number --gold answer, a --reward-model, --judge-run, --judge ask or a chat model; "
                "for pictures --judge FILE.py:FUNCTION."
            )
            found.append(UserError("There is nothing to judge responses by.", hint))
        if self.judged_by == "implicit" and self.judge_run is None and self.reference is None:
            hint = "Name the model that --model was trained from: --reference SFT."
            found.append(UserError("The implicit reward of the first round needs a --reference.", hint))
        return found

    def _without_rounds(self) -> list[UserError]:
        """Return an error for each setting of a training that rounds have no use for."""
        found = []
        if self.max_steps is not None:
            found.append(UserError("--max-steps is given: rounds say how long this run is.", "Use --rounds."))
        if self.eval_data:
            hint = "Name prompts with --eval-prompts, or hold some out with --eval-size."
            found.append(UserError("--eval-data is given: rounds are evaluated on prompts.", hint))
        if self.eval_prompts and self.eval_size:
            found.append(UserError("--eval-prompts and --eval-size are both given.", "Give one of them."))
        if self.keep_best is not None or self.eval_steps is not None:
            hint = "Leave --keep-best and --eval-steps out."
            found.append(UserError("Rounds are evaluated before the first and after every one.", hint))
        if self.streaming:
            found.append(UserError("--streaming is given: rounds draw from pairs that are all there.", "Leave it out."))
        if self.reference_sync_steps is not None and find_method(self.method).learns == "pairs":
            hint = "Use --reference-moves round."
            found.append(UserError("--reference-sync-steps is given: a reference of rounds moves with them.", hint))
        if self.condition_on or self.condition_scale:
            hint = "Leave it out: the policy says itself what it can be asked for, and --condition which levels."
            found.append(UserError("--condition-on is given: rounds learn behind the prompts they are given.", hint))
        if self.token_weights not in (None, "readout:confidence"):
            hint = "Take readout:confidence, which reads the policy of the moment."
            found.append(UserError(f"--token-weights {self.token_weights}: rounds are not scored in advance.", hint))
        return found


RESPONSE = 256
"""Most tokens of a response where nobody says."""

SECTIONS: dict[str, str] = {
    **TRAINING,
    "prompts": "rounds",
    "environment": "environment",
    "writer": "writing",
    "samples": "writing",
    "judge": "judging",
    "reward_model": "judging",
    "credit": "credit",
}
"""Headings of the help page, each by the first field that stands under it."""

SPELT_ELSEWHERE: Mapping[str, str] = {
    **SPELT_IN_TRAINING,
    "dataset_name": "prompts",
    "num_generations": "samples",
    "n": "samples",
    "iterations": "rounds",
    "max_completion_length": "max_new_tokens",
    "missing_eos_penalty": "truncated",
    "mask_truncated_completions": "truncated",
    "kl_coef": "beta",
    "cliprange": "a parameter of the loss: --loss-options clip_low=0.2 clip_high=0.2",
    "epsilon": "a parameter of the loss: --loss-options clip_low=0.2",
    "epsilon_high": "a parameter of the loss: --loss-options clip_high=0.28",
    "critic_learning_rate": "value_learning_rate",
    "critic_lr": "value_learning_rate",
    "vf_coef": "the weight of a term of the loss: --loss ppo+0.5*value",
    "num_ppo_epochs": "epochs",
    "num_iterations": "epochs",
    "num_mini_batches": "batch_size, the responses of one update",
    "whiten_rewards": "whiten_advantages",
    "ref_model_mixup_alpha": "reference_mixup_alpha",
    "ref_model_sync_steps": "reference_sync_steps",
}
"""Other trainers' names of a field, for the hint after a flag that does not exist."""

RANGES = (
    Range(("image_steps",), least=1, most=10_000),
    Range(("image_eta",), above=0, most=1),
    Range(("image_guidance",), least=0, most=1000),
    *TRAINING_RANGES,
    *EPISODE_RANGES,
    Range(("rounds", "prompts_per_round", "prompts_per_batch"), least=1, most=1_000_000),
    Range(("samples",), least=1, most=10_000),
    Range(("max_staleness",), least=0, most=1_000_000),
    Range(("replay", "flip_labels"), least=0, most=1),
    Range(("filter_accuracy",), least=0, most=1),
    Range(("label_budget",), least=1, most=1_000_000_000),
    Range(("gamma", "lam"), least=0, most=1),
    Range(("reward_clip", "token_reward_clip", "importance_cap"), above=0, most=1_000_000),
    Range(("token_reward_weight",), least=0, most=1_000_000),
)
"""The ranges of an online run's numbers."""
