"""Why a writer's log-probs are not the trainer's, where the numbers tell, and how each fault of a writer is put."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

SAID: Mapping[str, tuple[str, str]] = {
    "temperature": (
        "its log-probs are those of the policy at temperature {}, which nobody asked for",
        "Start vLLM with --generation-config vllm and --logprobs-mode raw_logprobs, which add nothing.",
    ),
    "top-p": (
        "its ratios to the policy are the mass that a filter keeps: it draws with {}, which nobody asked for",
        "Start vLLM with --generation-config vllm, so that the model's own sampling settings do not apply.",
    ),
    "retokenised": (
        "its token ids are what a tokenizer makes of the text, and not what was sampled{}",
        "Take ids from the engine itself (return_token_ids), and no proxy that decodes and encodes again.",
    ),
    "other-weights": (
        "its log-probs are those of no weights that were published: another model, adapter, template or type{}",
        "Check which model the server serves, the adapter's name, that both compute in one type, and --sync.",
    ),
    "cache-not-reset": (
        "it has the new weights, and still reads prompts from a cache that the old ones wrote{}",
        "Reset the prefix cache after new weights: --sync reload does; a --sync-command has to.",
    ),
    "stale-weights": (
        "it has older weights{}",
        "Look at the server's log and at what --sync does there; --max-staleness N allows N updates.",
    ),
    "text-only": (
        "it returns text, and no token ids: tokenising text again gives other tokens than were sampled{}",
        "Serve with `vllm serve MODEL` (0.10.2 or newer, return_token_ids), without a proxy that drops the field.",
    ),
    "prompt-changed": (
        "it read another prompt than it was sent: {}",
        "It must take token ids as they are: no BOS, no template, no truncation of its own.",
    ),
    "no-logps": ("it returns no log-probs{}", "Allow them: vLLM's --max-logprobs must be 1 or more."),
    "not-finite": (
        "its log-probs are not all finite and below 0{}",
        "Look at the weights and at the type it computes in.",
    ),
    "other-tokenizer": (
        "it knows other tokens than the policy: {}",
        "Serve the model that --model names, with its own tokenizer.",
    ),
    "template-drift": (
        "its tokenizer or template makes other tokens of a prompt: {}",
        "Rounds send token ids, so that nothing is lost there; who asks it in words is answered otherwise.",
    ),
    "no-finish": (
        "a response ended for no reason that can be learnt from: {}",
        "Look at the server's log: it gave up requests.",
    ),
    "end-inside": (
        "a response goes on behind its end: {}",
        "Start the server without ignore_eos, and give further ends with --eos.",
    ),
    "end-missing": (
        "how a response ended is not how its tokens end: {}",
        "Ends are the tokenizer's EOS, the model's and --eos; the token that ends a response must come back.",
    ),
    "length-wrong": (
        "a response has another length than was asked for: {}",
        "Look at vLLM's --max-model-len and --override-generation-config.",
    ),
    "few-responses": ("it gives fewer responses than were asked for: {}", "It must answer n responses a prompt."),
}
"""What each fault means, with a place for a number, and what to change."""


def diagnosed(
    found: Sequence[float], tables: Sequence[Tensor], tokens: Sequence[int], most: float
) -> tuple[str, str] | None:
    """Return the name of a distribution that explains a writer's log-probs, with its setting; None for none.

    Args:
        found: the writer's log-probs.
        tables: [V] the policy's log-probs at each token.
        tokens: the tokens.
        most: mean |Δ| up to which something explains them.
    """
    logps, places = torch.stack(list(tables)), torch.tensor(tokens)
    values = torch.tensor(found, dtype=logps.dtype)
    temperature, apart = _temperature(values, logps, places)
    if apart <= most:
        return "temperature", f"{temperature:.3g}"
    return _filter(values, logps, places, most)


def _temperature(found: Tensor, logps: Tensor, places: Tensor) -> tuple[float, float]:
    """Return the temperature at which the policy is nearest to what was found, and the mean |Δ| that is left."""

    def apart(logarithm: float) -> float:
        tempered = (logps / float(np.exp(logarithm))).log_softmax(-1)
        return float((tempered.gather(1, places[:, None])[:, 0] - found).abs().mean())

    best = minimize_scalar(apart, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x)), float(best.fun)


def _filter(found: Tensor, logps: Tensor, places: Tensor, most: float) -> tuple[str, str] | None:
    """Return top-p or top-k where every ratio is the mass of the likeliest tokens down to one that they explain.

    The mass m of the k likeliest tokens is what top-p keeps for every p between the mass of k − 1 and m. Each token
    gives such an interval; top-p is the p that lies in all of them.
    """
    own = logps.gather(1, places[:, None])[:, 0]
    masses = logps.sort(-1, descending=True).values.exp().cumsum(-1)
    wanted = (own - found).exp()
    counts = (masses - wanted[:, None]).abs().argmin(-1)
    reached = masses.gather(1, counts[:, None])[:, 0]
    if float((reached.log() - wanted.log()).abs().mean()) > most or float(wanted.min()) > 1 - most:
        return None
    before = torch.where(counts > 0, masses.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    low, high = float(before.max()), float(reached.min())
    if low <= high + most:
        return "top-p", f"top-p between {low:.3g} and {high:.3g} (kept mass {float(wanted.mean()):.3g})"
    if len(set(counts.tolist())) == 1:
        return "top-p", f"top-k {int(counts[0]) + 1} (kept mass {float(wanted.mean()):.3g})"
    return None
