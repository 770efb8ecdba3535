"""What `tokenq doctor` asks of models: whether they are those of the run, what they say of pairs, what they write."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import tokenq
from tokenq.cli.doctor import DoctorConfig
from tokenq.data.prompts import Prompt
from tokenq.doctor.data_checks import loops
from tokenq.doctor.precision_checks import doubtful, update_size, updated_in
from tokenq.errors import UserError
from tokenq.jobs.load import open_pair
from tokenq.jobs.reader import Options
from tokenq.jobs.searcher import load_searcher
from tokenq.models.adapters import is_adapter_folder
from tokenq.models.load import DTYPES, ModelSpec, load_model, load_whole
from tokenq.models.movement import movement
from tokenq.models.open import weights_of
from tokenq.models.run_models import RunModels
from tokenq.records import Example
from tokenq.results import SearchResult
from tokenq.runs.facts import ModelNow, Moved, Samples, Scored, Written
from tokenq.runs.record import RunRecord
from tokenq.score.health import pair_warnings
from tokenq.search.config import SearchConfig
from tokenq.traces import TokenTrace

_LIMIT = 512
"""Most tokens of a sample where the data would ask for more."""


def weights_now(record: RunRecord, spec: ModelSpec) -> tuple[tuple[ModelNow, ...], list[str]]:
    """Return the models of a run as they are today, and what could not be loaded.

    Args:
        record: the run.
        spec: how models are loaded; the run says which, and in which type.
    """
    found: list[ModelNow] = []
    missed: list[str] = []
    for role, begun in _models(record.config, record.provenance, spec):
        named = begun.path == record.config.get("reference")
        try:
            now = weights_of(begun, _to_be_trained if named or begun.adapter else load_whole)
        except UserError as problem:
            missed.append(f"the weights of the {role} ({problem.message})")
            continue
        recorded = str(record.provenance[role]["weights"])
        doubt, newer = _doubt(begun, record.provenance), _newer(begun, record.provenance)
        found.append(ModelNow(role, begun.path, recorded, now, doubt, newer))
    return tuple(found), missed


def moved_since(record: RunRecord, policy: Path, spec: ModelSpec) -> Moved | None:
    """Return how the policy's weights compare with those of the start, None where they were not all trained.

    Args:
        record: the run.
        policy: folder of the trained policy.
        spec: how models are loaded; the run says which, and in which type.

    Raises:
        UserError: the model that training began from is no longer there.
    """
    dtype, update = updated_in(record), update_size(record)
    if dtype is None or not doubtful(record) or not any(policy.glob("model*.safetensors")):
        return None
    config = record.config
    base = spec.base or config.get("base")
    spec = replace(spec, path=str(config["model"]), revision=config.get("revision"), base=base)
    began = load_whole(replace(spec, dtype=_dtype_of(record.provenance), device="cpu"))
    found = movement(began.state_dict(), policy, update, dtype)
    return Moved(*found) if found.weights else None


def _dtype_of(provenance: Mapping[str, Any]) -> str:
    """Return the type that the models of a run were read in: a hash is of weights in their type."""
    dtype = str(provenance["model"].get("dtype", "auto"))
    return dtype if dtype in DTYPES else "auto"


def _to_be_trained(spec: ModelSpec) -> Any:
    return load_model(spec, trainable_adapter=True)


def _models(config: Mapping[str, Any], provenance: Mapping[str, Any], spec: ModelSpec) -> list[tuple[str, ModelSpec]]:
    """Return (role, what was loaded) of each model whose hash can come out again.

    A new adapter is drawn anew in every run, so that the hash of a policy that began with one says nothing of its base:
    the reference does, which is that base.
    """
    if "ForSequenceClassification" in str(provenance["model"]["architecture"]):
        return []  # its hash is that of a reward model with a new head, which is in no file
    fresh, other = bool(config.get("lora_rank")), config.get("reference")
    spec = replace(spec, dtype=_dtype_of(provenance), device="cpu", base=spec.base or config.get("base"))
    begun = replace(spec, path=str(config["model"]), adapter=config.get("adapter"), revision=config.get("revision"))
    models = []
    if provenance.get("reference"):
        models.append(("reference", replace(spec, path=str(other)) if other else begun))
    if not fresh and (other or not provenance.get("reference")):
        models.append(("model", begun))
    return models


def _doubt(spec: ModelSpec, provenance: Mapping[str, Any]) -> str:
    """Return why the same files may hash otherwise here; "" where they must not."""
    if is_adapter_folder(spec.path):
        return "an adapter is merged there, whose sums round otherwise on another device"
    then = provenance.get("versions") or {}
    for package, now in (("transformers", importlib.metadata.version("transformers")), ("tokenq", tokenq.__version__)):
        if then.get(package) != now:
            return f"{package} was {then.get(package)} then, and another version may read or hash a model otherwise"
    return ""


def _newer(spec: ModelSpec, provenance: Mapping[str, Any]) -> bool:
    """Return whether the weights of a local model were written after the run began."""
    began = datetime.fromisoformat(str(provenance["started"])).timestamp()
    places = [Path(path).expanduser() for path in (spec.path, spec.adapter) if path is not None]
    files = [file for place in places for file in (place.glob("*.safetensors") if place.is_dir() else [place])]
    return any(file.stat().st_mtime > began for file in files if file.is_file())


def scored_now(
    config: DoctorConfig, examples: Sequence[Example], say: Console
) -> tuple[Scored, dict[str, Any], dict[str, Any]]:
    """Return what policy and reference say of pairs, and the identities of both.

    Args:
        config: names the models.
        examples: the pairs.
        say: told what cannot be done as asked.
    """
    options = Options(
        beta=config.beta or 0.1,
        dtype=config.dtype,
        device=config.device,
        attention=config.attention,
        trust_remote_code=config.trust_remote_code,
        base=config.base,
        top_k=0,
        levels=(),
        max_length=config.max_length,
        tokens_per_batch=config.tokens_per_batch,
    )
    reference = None if config.reference is None else options.spec(config.reference)
    policy = options.spec(str(config.policy))
    reader = open_pair(policy, reference, options, lambda text: say.print(f"warning: {text}"))
    rows, _ = reader.rows(examples, "drop")
    scored = reader.traces(rows)
    pairs = list(track(scored, "scoring", len(rows), console=say, transient=True, disable=not say.is_terminal))
    return summed_up(pairs), *reader.identities


def summed_up(pairs: Sequence[Sequence[TokenTrace]]) -> Scored:
    """Return the metrics of scored pairs under the names that training gives them.

    Args:
        pairs: (chosen, rejected) traces, at least one pair.
    """
    totals = [[trace.totals for trace in pair] for pair in pairs]
    rewards = np.array([[one.implicit_reward for one in pair] for pair in totals])
    logps = np.array([[one.logp for one in pair] for pair in totals])
    lengths = np.array([[one.tokens for one in pair] for pair in totals], np.float64)
    margins, longer = rewards[:, 0] - rewards[:, 1], lengths[:, 0] - lengths[:, 1]
    values = {"rewards/accuracies": float((margins > 0).mean()), "rewards/margins": float(margins.mean())}
    for place, side in enumerate(("chosen", "rejected")):
        values[f"rewards/{side}"] = float(rewards[:, place].mean())
        values[f"logps/{side}"] = float(logps[:, place].mean())
        values[f"response_length/{side}"] = float(lengths[:, place].mean())
    values["kl"] = float(-rewards.mean() / pairs[0][0].beta)
    spread = margins.std() * longer.std()
    covariance = ((margins - margins.mean()) * (longer - longer.mean())).mean()
    correlation = float(covariance / spread) if spread > 0 else float("nan")
    warnings = pair_warnings([trace for pair in pairs for trace in pair])
    return Scored(values, len(pairs), correlation, tuple(warnings))


def written_now(
    config: DoctorConfig,
    models: RunModels,
    examples: Sequence[Example],
    summary: Mapping[str, Any],
    say: Console,
) -> Samples:
    """Return what policy and reference write to the first prompts, one response each, drawn at temperature 1.

    Args:
        config: how many prompts, and how models are loaded.
        models: the policy that is examined, and what it is compared with.
        examples: rows whose prompts are answered.
        summary: account of the data, for the length of its responses.
        say: told what is being done.
    """
    p99 = max((int(counts["p99"]) for part, counts in summary["tokens"].items() if part != "prompt"), default=_LIMIT)
    limit = config.max_new_tokens or min(p99, _LIMIT)
    prompts = [
        Prompt(str(number), example.prompt, example.where, example.context)
        for number, example in enumerate(examples[: config.samples], 1)
    ]

    def write(asked: RunModels) -> list[SearchResult]:
        config_of = SearchConfig(
            method="sample", n=1, max_new_tokens=limit, seed=config.seed, attention=config.attention
        )
        searcher = load_searcher(config_of, say=lambda text: say.print(f"warning: {text}"), models=asked)
        return list(searcher.results(prompts))

    say.print(f"writing {len(prompts)} responses of up to {limit} tokens with each model")
    own = write(models)
    drawn = [result.candidates[0] for result in own]
    if models.reference is None:
        return Samples(limit, _written(own))
    gaps = [sum(one.logps) - sum(one.ref_logps) for one in drawn if one.ref_logps is not None]
    return Samples(
        limit, _written(own), _written(write(RunModels(models.reference, None, None))), sum(gaps) / len(gaps)
    )


def _written(results: Sequence[SearchResult]) -> Written:
    drawn = [result.candidates[0] for result in results]
    return Written(
        tuple(len(one.token_ids) for one in drawn),
        tuple(one.terminal for one in drawn),
        tuple(loops(np.array(one.token_ids, np.int32)) for one in drawn),
    )
