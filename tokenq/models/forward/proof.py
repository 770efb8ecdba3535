"""The proof that a way of computing log-probs is exact for a model, and the choice of the fastest that is.

Nothing is guessed from a model's name: each way is held against the model's own forward on single unpadded rows.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenq.core.logits import FullLogits
from tokenq.core.packing import pack
from tokenq.errors import UserError, unknown_name
from tokenq.models.forward.lengths import length_limit, short_lengths
from tokenq.models.forward.packed_lm import WAYS, PackedLM
from tokenq.models.forward.proof_of_steps import differences_of_steps
from tokenq.models.forward.single_rows import set_attention
from tokenq.records.examples import TokenGroup, TokenResponse

TOLERANCES = {torch.float64: 1e-5, torch.float32: 2e-3}
"""Largest difference of one log-prob (nats) that is rounding and not a mistake (many models take their softmax in
float32 whatever their weights are). In half precision it is measured: see `prove`."""

ROOM = 1024
"""A way that holds for rows of so many tokens is taken before slower ones that hold for all."""

HALF_FLOOR = 1e-3
"""Least tolerance in half precision."""


@dataclass(frozen=True)
class Proof:
    """The computation that a way of batching is checked against.

    Attributes:
        got: (model, groups) → the numbers [N] of a packed batch of these groups.
        want: (model, groups) → the same by the model's own forward, one unpadded row at a time: the truth.
        ways: which ways can hold, the one that is tried last at the end.
    """

    got: Callable[[PackedLM, Sequence[TokenGroup]], Tensor]
    want: Callable[[PackedLM, Sequence[TokenGroup]], Tensor]
    ways: tuple[str, ...]


def fastest_exact(
    model: nn.Module, choice: str = "auto", max_length: int = 1024, proof: Proof | None = None
) -> tuple[PackedLM, list[str]]:
    """Return the model with the fastest way that is proven exact for it, and the warnings.

    Args:
        model: a causal LM, or another model with a proof of its own.
        choice: "auto", or the name of a way, which is then proven alone before falling back to the last one.
        max_length: longest sequence of the job.
        proof: what the ways are held to; log-probs when None.

    Raises:
        UserError: for an unknown choice, or when not even the model's own forward can be repeated on padded rows.
    """
    proof = proof or LOG_PROBS
    if choice != "auto" and choice not in proof.ways:
        raise unknown_name("attention", choice, ["auto", *proof.ways])
    on_cuda = next(model.parameters()).is_cuda
    auto = [way for way in proof.ways if on_cuda or way != "flex"]
    ways = auto if choice == "auto" else [choice, proof.ways[-1]]
    warnings: list[str] = []
    bounded: PackedLM | None = None
    for way in dict.fromkeys(ways):
        lm = PackedLM(model, way)
        error, reason = prove(lm, proof)
        if error <= 1:
            lm.limit = _limit(lm, proof)
            if lm.limit is None or lm.limit >= min(max_length, ROOM):
                return _chosen(lm, proof, max_length, warnings)
            bounded = bounded or lm
        else:
            said = reason or f"{error:.2g} times the tolerance"
            warnings.append(f"{type(lm.lm).__name__}: {way!r} is not exact ({said}).")
        lm.release()
    if bounded is not None:
        return _chosen(PackedLM(model, bounded.way, bounded.limit), proof, max_length, warnings)
    raise UserError(
        "No way of batching reproduces this model's own forward: " + " ".join(warnings),
        "The model may be stochastic (dropout, noise) or broken (NaN weights).",
    )


def _limit(lm: PackedLM, proof: Proof) -> int | None:
    """Return the row length up to which a way that holds for short rows is exact; None if there is no limit.

    Lengths at which the model begins to treat rows otherwise are made small for the proof.
    """
    limit = length_limit(lm.lm)
    if limit is None:
        return None
    with short_lengths(lm.lm):
        holds = prove(lm, proof)[0] <= 1 and (not _steps(lm, proof) or _steps_hold(lm))
    return None if holds else limit


def _chosen(lm: PackedLM, proof: Proof, max_length: int, warnings: list[str]) -> tuple[PackedLM, list[str]]:
    if warnings:
        warnings.append(f"Using {lm.way!r} instead.")
    if lm.limit is not None and lm.limit < max_length:
        warnings.append(f"{type(lm.lm).__name__} treats rows beyond {lm.limit} tokens otherwise: they go one by one.")
    lm.steps = _steps(lm, proof) and _steps_hold(lm)
    return lm, warnings


def _steps(lm: PackedLM, proof: Proof) -> bool:
    """Return whether this way supports steps with cached keys and values."""
    return WAYS[lm.way].shares_prompts and proof.got is LOG_PROBS.got


@torch.no_grad()
def _steps_hold(lm: PackedLM) -> bool:
    """Return whether steps with cached keys and values agree with whole rows."""
    training, dtype = lm.model.training, _compute_dtype(lm.model)
    lm.model.eval()
    try:
        off = differences_of_steps(lm)
        if dtype in TOLERANCES:
            return bool(off.max() <= TOLERANCES[dtype])
        groups = probe_groups(lm.lm)
        return bool(off.mean() <= 2 * max(HALF_FLOOR, _rounding(lm, groups, LOG_PROBS.want(lm, groups), LOG_PROBS)))
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False  # whatever a layer objects to
    finally:
        set_attention(lm.lm, WAYS[lm.way].attention or lm.own_attention)
        lm.model.train(training)


@torch.no_grad()
def prove(lm: PackedLM, proof: Proof | None = None) -> tuple[float, str]:
    """Return the error of this way against the model's own forward on single unpadded rows, in tolerances.

    Random tokens, several groups, a response of one token among them. In float32 and float64 the largest difference
    counts, against `TOLERANCES`. In half precision rounding alone moves single log-probs by a nat in one model and by a
    hundredth in another, so the mean difference counts, against that between the model's own forward and itself with
    every embedding rounded otherwise.

    Args:
        lm: the model and the way to be proven.
        proof: what it is held to; log-probs when None.

    Returns:
        the error, at most 1 for a way that holds (infinite when it cannot run at all or gives no finite number), and
        the reason.
    """
    proof = proof or LOG_PROBS
    training, groups = lm.model.training, probe_groups(lm.lm)
    lm.model.eval()
    try:
        got = proof.got(lm, groups)
        set_attention(lm.lm, lm.own_attention)
        want = proof.want(lm, groups)
        dtype = _compute_dtype(lm.model)
        differences = (got - want).abs()
        if dtype in TOLERANCES:
            error = differences.max().item() / TOLERANCES[dtype]
        else:
            error = differences.mean().item() / max(HALF_FLOOR, _rounding(lm, groups, want, proof))
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, UserError) as problem:
        # Any architecture of transformers may arrive here, with any objection to arguments that it does not know.
        return torch.inf, f"{type(problem).__name__}: {str(problem).splitlines()[0][:160]}"
    finally:
        set_attention(lm.lm, WAYS[lm.way].attention or lm.own_attention)
        lm.model.train(training)
    return (error, "") if error == error else (torch.inf, "it gives NaN")


def _rounding(lm: PackedLM, groups: Sequence[TokenGroup], want: Tensor, proof: Proof) -> float:
    """Return the mean change of the model's output when every embedding is off by up to one rounding step."""
    step = torch.finfo(_compute_dtype(lm.model)).eps
    generator = torch.Generator().manual_seed(0)

    def round_otherwise(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        noise = torch.rand(output.shape, generator=generator) * 2 - 1
        return output * (1 + step * noise).to(output)

    handle = lm.lm.get_input_embeddings().register_forward_hook(round_otherwise)
    try:
        return (proof.want(lm, groups) - want).abs().mean().item()
    finally:
        handle.remove()


def _own_logps(lm: PackedLM, groups: Sequence[TokenGroup]) -> Tensor:
    """Return the log-probs of all responses by the model's own forward, one row at a time: the truth."""
    found = []
    # Where a model can leave out the logits of the prompt it may: a long prompt's take seconds and a gigabyte.
    spares = "logits_to_keep" in inspect.signature(lm.lm.forward).parameters
    for group in groups:
        for response in group.responses:
            ids = torch.from_numpy(np.concatenate((group.prompt_ids, response.ids)).astype(np.int64)).to(lm.device)
            start = len(group.prompt_ids)
            kept = len(response.ids) + 1
            options = {"logits_to_keep": kept} if spares else {}
            logits = lm.lm(input_ids=ids[None], use_cache=False, **options).logits[0, -kept:-1]
            found.append(FullLogits(logits).logps(ids[start:]))
    return torch.cat(found)


def _packed_logps(lm: PackedLM, groups: Sequence[TokenGroup]) -> Tensor:
    logps: Tensor = lm(pack(groups).to(lm.device)).logps
    return logps


LOG_PROBS = Proof(_packed_logps, _own_logps, tuple(WAYS))
"""Log-probs of a causal LM."""


def probe_groups(model: PreTrainedModel) -> list[TokenGroup]:
    """Return the random rows that ways are proven on, shorter and longer than `lengths.SHORT` tokens."""
    size = model.config.get_text_config().vocab_size
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, Sequence[int]]] = [(5, (4, 1, 6)), (9, (3, 7))]

    def draw(n: int) -> np.ndarray:
        return rng.integers(0, size, n).astype(np.int32)

    def response(n: int) -> TokenResponse:
        return TokenResponse(draw(n), np.ones(n, dtype=bool), terminal=True)

    return [TokenGroup(draw(m), tuple(response(n) for n in ns), False, "probe") for m, ns in shapes]


def _compute_dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
