"""A writer behind a server as the doctor sees it: the checks of rounds, without a run."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenq.data.chat.messages import for_server
from tokenq.data.prompts import Prompt, encode_prompts, load_prompts
from tokenq.data.sources import Data
from tokenq.doctor.config import DoctorConfig
from tokenq.doctor.finding import Evidence, Finding
from tokenq.errors import UserError
from tokenq.jobs.doctor.material import Material
from tokenq.jobs.rollout.served import PATIENCE, Trainer, trainer_of
from tokenq.listener import Listener
from tokenq.models.limits import ModelLimits
from tokenq.models.loaded import Loaded
from tokenq.models.open import open_model
from tokenq.models.run_models import named_models
from tokenq.models.tokenizer import ends_of, open_tokenizer
from tokenq.rollout.remote import RemoteWriter, find_server
from tokenq.rollout.writer_checks import Agreement, Fault, WriterError, compared, fault
from tokenq.rollout.writer_probe import Pool, probed
from tokenq.runs.record import RunRecord
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling

WAYS = (Sampling(), Sampling(temperature=0.7, top_p=0.8))
"""How it is made to write: as the policy draws, and where log-probs of the sampler would differ from the model's."""

QUESTIONS = ("What is 2 and 2?", "Once upon a time", "Name a colour.", "The capital of France is")
"""What it writes to where no --data are given."""

TOKENS = 32
"""Tokens of a response, where nobody says how many."""

PROMPTS = 8
"""Prompts of --data that it writes to."""


def writer_findings(
    config: DoctorConfig, in_memory: Mapping[str, Loaded], data: Data, listener: Listener
) -> tuple[Material, list[Finding]]:
    """Return what was looked at, and what is wrong with the writer of `--writer` for a policy.

    Args:
        config: what was asked for, checked.
        in_memory: the policy, instead of files of that name.
        data: whose prompts it writes to; none for a few questions.
        listener: told what is being done.

    Raises:
        UserError: nobody answers, or the policy cannot be loaded.
    """
    url = str(config.writer)
    server = find_server(url, config.writer_model, PATIENCE)
    listener.say(f"writer: {server.engine} at {server.endpoint.shown}")
    spec = named_models(config, None, in_memory).policy
    tokenizer, opened = open_tokenizer(spec), open_model(spec, config.attention, config.max_length)
    lm = opened.lm
    lengths = [one for one in (config.max_length, server.longest, ModelLimits.of(lm.model).context) if one is not None]
    limits = Limits(ends_of(lm, tokenizer, ()), config.max_new_tokens or TOKENS, context=min(lengths))
    prompts = load_prompts(data, config.columns, config.style).prompts[:PROMPTS] if data else _questions()
    ids = encode_prompts(prompts, tokenizer)
    writer = RemoteWriter(
        server, limits, ModelLimits.of(lm.model).tokens, server.endpoint.model, published=0, version=0
    )
    trainer = trainer_of(lm, tokenizer, contextlib.nullcontext, next(lm.parameters()).dtype)
    faults, agreement = _faults(writer, trainer, ids, min(lengths))
    unseen, drift = _template(writer, prompts, ids)
    findings = [_finding(one) for one in (*faults, *drift)]
    if agreement is not None and not findings:
        findings = [_finding(_agrees(agreement))]
    record = RunRecord(server.endpoint.shown, {"model": config.policy, "data": list(config.data)})
    return Material(record, unseen, {"policy": opened.identity.to_dict()}), findings


def _questions() -> list[Prompt]:
    return [Prompt(str(number), text, f"question {number}") for number, text in enumerate(QUESTIONS, 1)]


def _faults(
    writer: RemoteWriter, trainer: Trainer, ids: Sequence[tuple[int, ...]], longest: int
) -> tuple[list[Fault], Agreement | None]:
    """Return what is wrong, the same fault once, and the agreement of log-probs where it could be measured."""
    agreements: list[Agreement] = []

    def vocabulary() -> Fault | None:
        return _vocabulary(writer, ids[0][0])

    def weights() -> Fault | None:
        return trainer.taken(probed(writer, Pool.of(ids, longest), 0), 0, {}).fault

    def samples(sampling: Sampling) -> Fault | None:
        written = writer.write(ids, 2, sampling, 0)
        pairs = [(prompt, one) for prompt, some in zip(ids, written, strict=True) for one in some]
        found = compared(pairs, sampling, trainer.table, trainer.bar, trainer.recoded)
        agreements.append(found.agreement)
        return found.fault

    found: dict[str, Fault] = {}
    checks: list[Callable[[], Fault | None]] = [vocabulary, weights]
    for check in (*checks, *(lambda way=way: samples(way) for way in WAYS)):
        try:
            one = check()
        except WriterError as problem:
            one = problem.fault
        if one is not None:
            found.setdefault(one.name, one)
    return list(found.values()), agreements[0] if agreements else None


def _vocabulary(writer: RemoteWriter, known: int) -> Fault | None:
    """Return a fault where the server knows fewer or more tokens than the policy."""
    one = replace(writer, limits=replace(writer.limits, max_new_tokens=1))
    for token, takes in ((writer.size - 1, True), (writer.size, False)):
        try:
            one.write([[known, token]], 1, Sampling(temperature=0.0), 0)
        except WriterError:
            raise
        except UserError as problem:
            if "will not do" not in problem.message:
                raise
            if takes:
                return fault("other-tokenizer", f"it refuses token {token}, the policy's last")
        else:
            if not takes:
                return fault("other-tokenizer", f"it takes token {token}, and the policy has {writer.size}")
    return None


def _template(
    writer: RemoteWriter, prompts: Sequence[Prompt], ids: Sequence[tuple[int, ...]]
) -> tuple[tuple[str, ...], list[Fault]]:
    """Return what could not be looked at, and a fault where the server makes other tokens of a prompt than we do."""
    first = prompts[0]
    body: dict[str, Any] = {"model": writer.model, "add_generation_prompt": True}
    if isinstance(first.text, str):
        body["prompt"] = first.text
    else:
        more = dict(first.context)
        body["messages"] = [*map(for_server, first.text)]
        body |= {"tools": more.pop("tools")} if "tools" in more else {}
        body |= {"chat_template_kwargs": more} if more else {}
    try:
        (answer,) = writer.server.send(f"{writer.server.root}/tokenize", [body])
        theirs = list(answer["tokens"])
    except (UserError, LookupError, TypeError):
        return ("its tokenizer and template (it has no /tokenize)",), []
    if theirs == list(ids[0]):
        return (), []
    place = next((at for at, (one, two) in enumerate(zip(theirs, ids[0], strict=False)) if one != two), None)
    where = f"{len(theirs)} tokens for {len(ids[0])}" if place is None else f"another token at place {place}"
    said = fault("template-drift", where)
    return (), [said._replace(severity="warning")]


def _agrees(agreement: Agreement) -> Fault:
    return Fault("writer-agrees", "its log-probs are the policy's", agreement.numbers(), "Nothing.", "note")


def _finding(one: Fault) -> Finding:
    evidence = tuple(Evidence(what, value) for what, value in one.evidence)
    return Finding(one.name, one.severity, one.found, evidence, one.change)
