"""What the engine is asked for, and what it delivers, in tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tokenq.search.settings import Sampling

Tops = tuple[tuple[int, float], ...]
"""(token id, log-prob) of the likeliest tokens, best first."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Texts that are asked for behind one prompt.

    Log-probs are always those of the models themselves (temperature 1, no bias, nothing cut), whatever is drawn from.

    Attributes:
        prompt: token ids.
        n: choices; they share the prompt.
        seed: decides all choices, with the prompt's tokens and the number of the choice; None for one by chance.
        temperature: 0 takes the likeliest token.
        top_p: only the likeliest tokens that together have this probability.
        top_k: only the k likeliest tokens; 0 for all.
        min_p: only tokens at least this often as likely as the likeliest.
        logit_bias: by token id, what is added to its logit before anything is drawn.
        max_new_tokens: most tokens of a choice; 0 only where the log-probs of the prompt are asked for.
        eos: token ids that end a choice.
        top_logprobs: alternatives at each token.
        rewards: whether the reference reads along.
        prompt_logps: whether the log-probs of the prompt's own tokens come first.
    """

    prompt: tuple[int, ...]
    n: int = 1
    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    max_new_tokens: int
    eos: frozenset[int]
    top_logprobs: int = 0
    rewards: bool = False
    prompt_logps: bool = False

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn.

        Raises:
            UserError: nothing would be left to draw.
        """
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)


@dataclass(frozen=True)
class Token:
    """One token of one choice, as it comes.

    Attributes:
        choice: number of the choice.
        id: the token.
        logp: log π.
        top: the policy's likeliest tokens, `top_logprobs` of them.
        ref_logp: log π_ref; None where the reference does not read along.
        ref_top: log π_ref of the reference's likeliest tokens, then of those of `top` that are not among them.
        finish: "stop" for an end of text, "length" for the most tokens or a full context, None if it goes on.
        others: log π of those of `ref_top` that are not in `top`.
    """

    choice: int
    id: int
    logp: float
    top: Tops = ()
    ref_logp: float | None = None
    ref_top: Tops = ()
    finish: str | None = None
    others: Tops = ()


@dataclass(frozen=True)
class PromptLogps:
    """Log-probs of the prompt's own tokens, which come before the first token of a choice.

    Attributes:
        logps: log π of each token; None for the first, which nothing predicts.
        tops: the policy's likeliest tokens in the place of each; none for the first.
        ref_logps: log π_ref likewise; None where the reference does not read along.
        ref_tops: as `Token.ref_top`; empty where the reference does not read along.
    """

    logps: tuple[float | None, ...]
    tops: tuple[Tops, ...]
    ref_logps: tuple[float | None, ...] | None = None
    ref_tops: tuple[Tops, ...] = ()


Delivery = Token | PromptLogps | BaseException | None
"""What a request is given: tokens, an error, and None at the end of everything, also behind an error."""

Deliver = Callable[[Delivery], None]
"""Takes what comes, on the thread of the engine; it must not block."""


class Full(Exception):
    """As many requests wait as may."""


class Closed(Exception):
    """The engine takes no more requests: it ends those that it has, or has ended."""
