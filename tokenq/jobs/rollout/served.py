"""A policy that writes through a server: its weights are published there, and what comes back is checked.

Before the first batch of a round the weights go out, and the server answers for fixed tokens: it has the new weights,
or older ones, or neither. The first batch in each way of sampling is compared with the policy's own forward pass.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from tokenq.core.packing import pack
from tokenq.core.tensors import PackedBatch
from tokenq.data.encoding import text_of
from tokenq.errors import UserError
from tokenq.files import JsonLines, folder_aside
from tokenq.jobs.rollout.first_reference import written_in
from tokenq.jobs.training.reference import compute_dtype
from tokenq.judge.endpoint import Endpoint
from tokenq.leftovers import remove
from tokenq.listener import Listener
from tokenq.models.export import write_policy
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import logits_of
from tokenq.models.limits import ModelLimits
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.publishing import PUBLISHERS, Publication, published
from tokenq.rollout.remote import RemoteWriter, find_server
from tokenq.rollout.sync import synced_by
from tokenq.rollout.writer import Sample, Seed
from tokenq.rollout.writer_checks import BARS, Bar, Table, compared
from tokenq.rollout.writer_probe import WRITTEN, Greedy, Pool, Probe, Taken, leading, probed, taken
from tokenq.rundir import RunDir
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling
from tokenq.training.checks import together

PATIENCE = Endpoint("", role="writer", key_variable="VLLM_API_KEY", timeout=600.0)
"""How a writer is asked, but for its address and model."""

LOG = "writer.jsonl"
"""What was published, and what the server then answered: a line a publication."""


class Trainer(NamedTuple):
    """The side of the trainer, which a writer is held to.

    Attributes:
        table: log-probs of every token at each place of a response, as the policy is.
        bar: how far a writer's may be from them.
        recoded: (prompt, response) → what the tokenizer makes of the response's text.
    """

    table: Table
    bar: Bar
    recoded: Callable[[Sequence[int], Sequence[int]], Sequence[int]]

    def logps(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """Return log π of each token of a response."""
        rows = self.table(prompt, response)
        return [float(row[token]) for row, token in zip(rows, response, strict=True)]

    def greedy(self, question: Sequence[int], guess: Sequence[int], limits: Limits) -> Greedy:
        """Return the likeliest response to a question; a good guess at it saves forward passes."""
        logps, likeliest = self.table(question, guess).max(-1)
        known = leading(guess, likeliest.tolist())
        found, values = list(guess[:known]), logps[:known].tolist()
        while len(found) < WRITTEN and not set(found[-1:]) & set(limits.eos):
            logp, token = self.table(question, [*found, question[0]])[-1].max(-1)
            found.append(int(token))
            values.append(float(logp))
        return Greedy(found, values)

    def taken(self, probe: Probe, version: int, older: Mapping[int, Greedy]) -> Taken:
        """Return which weights a writer has; what it writes may be off for another reason, which then is the fault."""
        fixed, fresh = (self.logps(question, one.token_ids) for question, one in probe.pairs)
        found = taken(probe, (fixed, fresh), version, older, self.bar)
        if found.fault is None or found.fault.name != "other-weights":
            return found
        said = compared(probe.pairs, Sampling(), self.table, self.bar, self.recoded).fault
        return found._replace(fault=said or found.fault)


def trainer_of(policy: PackedLM, tokenizer: Any, prepared: Callable[[], Any], dtype: torch.dtype) -> Trainer:
    """Return what a writer is held to.

    Args:
        policy: the policy in this process.
        tokenizer: goes with it.
        prepared: a block in which the policy computes as it does when it writes.
        dtype: in which it does.
    """

    def table(prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
        ids = np.array(response, np.int32)
        one = TokenResponse(ids, np.ones(len(ids), np.bool_), terminal=False)
        batch: PackedBatch = pack([TokenGroup(np.array(prompt, np.int32), (one,), False, "a response")])
        with torch.no_grad(), prepared():
            return logits_of(policy)(batch).row(slice(None)).T.float().log_softmax(-1).cpu()

    def recoded(prompt: Sequence[int], response: Sequence[int]) -> list[int]:
        ends = [one for one in response[-1:] if one in tokenizer.all_special_ids]
        said = text_of(tokenizer, prompt, response)
        return [*tokenizer.encode(said, add_special_tokens=False), *ends]

    return Trainer(table, BARS[str(dtype).removeprefix("torch.")], recoded)


@dataclass
class HeldWriter:
    """A writer behind a server whose first responses in each way of sampling are compared with the policy's own.

    Attributes:
        remote: writes.
        trainer: what it is held to.
        listener: told what the writer does not say.
    """

    remote: RemoteWriter
    trainer: Trainer
    listener: Listener
    _compared: set[Sampling] = field(default_factory=set)
    _said: set[str] = field(default_factory=set)

    @property
    def engine(self) -> str:
        """What computes, and in which type."""
        return self.remote.engine

    def write(self, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling, seed: Seed) -> list[list[Sample]]:
        """Return `count` responses to every prompt; the first ones after a publication are compared.

        Raises:
            UserError: the server is down, or its responses are not the policy's.
        """
        found = self.remote.write(prompts, count, sampling, seed)
        if sampling in self._compared or self.remote.version != self.remote.published:
            return found
        pairs = [(prompt, one) for prompt, some in zip(prompts, found, strict=True) for one in some]
        result = compared(pairs, sampling, self.trainer.table, self.trainer.bar, self.trainer.recoded)
        if result.fault is not None:
            if result.fault.severity == "error":
                raise result.fault.raised(self.remote.server.endpoint.shown)
            self.warn(result.fault.found)
        self._compared.add(sampling)
        if result.logps_of == "sampler":
            self.remote.logps_of[sampling] = "sampler"
        return [[one._replace(logps_of=result.logps_of) for one in some] for some in found]

    def forget(self) -> None:
        """Compare anew: the weights are others."""
        self._compared.clear()
        self.remote.logps_of.clear()

    def warn(self, found: str) -> None:
        """Say once what was found."""
        if found not in self._said:
            self._said.add(found)
            self.listener.say(f"warning: the writer at {self.remote.server.endpoint.shown}: {found}")


@dataclass(frozen=True)
class ServedPolicy:
    """The policy as a writer behind a server.

    Attributes:
        remote: writes.
        trainer: what the writer is held to.
        save: (folder) → fills it with the policy as it is.
        config: the settings.
        run: the folder of the run.
        pool: token ids to probe with.
        accelerator: tells processes apart; the main one publishes.
        listener: told what the writer does not say.
    """

    remote: RemoteWriter
    trainer: Trainer
    save: Callable[[Path], None]
    config: OnlineConfig
    run: RunDir
    pool: Pool
    accelerator: Accelerator
    listener: Listener

    @cached_property
    def held(self) -> HeldWriter:
        """The writer, whose responses are compared."""
        return HeldWriter(self.remote, self.trainer, self.listener)

    @property
    def engine(self) -> str:
        """What computes, and in which type."""
        return self.remote.engine

    def write(self, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling, seed: Seed) -> list[list[Sample]]:
        """Return `count` responses to every prompt; the first ones after a publication are compared.

        Raises:
            UserError: the server is down, or its responses are not the policy's.
        """
        return self.held.write(prompts, count, sampling, seed)

    def refresh(self, version: int) -> None:
        """Give the server the policy's weights, unless it has them, and check that it took them.

        Args:
            version: updates that they have seen.

        Raises:
            UserError: it did not take them.
        """
        if self.remote.published == version:
            return
        main, known = self.accelerator.is_main_process, list[Any]([None, None])
        if main:
            self.run.round(0).parent.mkdir(parents=True, exist_ok=True)
        known = [together(lambda: self._published(version) if main else None, self.accelerator)]
        broadcast_object_list(known)
        name, has = known[0]
        self.remote.model, self.remote.published, self.remote.version = name, version, has
        self.held.forget()

    def _published(self, version: int) -> tuple[str, int]:
        """Publish, and return the name of the weights there and the version that the server then has."""
        by = synced_by(self.config, adapts=self.config.adapts)
        place = self.run.path.absolute()
        folder = place / "writer" / f"v{version:06d}"
        with folder_aside(folder) as aside:
            self.save(aside)
        alone = f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:6]}"
        command = self.config.sync_command or ""
        name = published(by, Publication(self.remote.server, folder, version, alone, command))
        for other in folder.parent.glob("v*"):
            if other != folder:
                remove(other)
        lines = JsonLines(self.run.round(0).with_name(LOG)).read()
        older = {int(line["version"]): Greedy(**line["greedy"]) for line in lines if line["version"] != version}
        probe = probed(replace(self.remote, model=name), self.pool, version)
        found = self.trainer.taken(probe, version, older)
        own = self.trainer.greedy(probe.questions[0], probe.written[0].token_ids, self.remote.limits)
        line = {"version": version, "model": name, "sync": by, "has": found.version, "greedy": own._asdict()}
        line |= {"mean": found.agreement.mean, "worst": found.agreement.worst}
        JsonLines(self.run.round(0).with_name(LOG)).append(line)
        if found.fault is not None:
            if found.version is None or version - found.version > self.config.max_staleness:
                raise found.fault.raised(self.remote.server.endpoint.shown)
            self.held.warn(found.fault.found)
        assert found.version is not None  # weights that nobody published are a fault
        return name, found.version


def served_policy(
    config: OnlineConfig,
    policy: PackedLM,
    tokenizer: Any,
    limits: Limits,
    ids: Sequence[Sequence[int]],
    accelerator: Accelerator,
    listener: Listener,
) -> ServedPolicy:
    """Return the policy as a writer behind the server of `--writer`.

    Args:
        config: the settings.
        policy: the policy in this process.
        tokenizer: goes with it.
        limits: where responses end.
        ids: the prompts in tokens.
        accelerator: tells processes apart.
        listener: told what the server is.

    Raises:
        UserError: nobody answers there, or it reads less than prompts and responses take.
    """
    server = find_server(config.writer, config.writer_model, PATIENCE)
    wanted = max(limits.behind(one).max_new_tokens + len(one) for one in ids)
    if server.longest is not None and server.longest < wanted:
        raise UserError(
            f"The writer at {server.endpoint.shown} reads {server.longest} tokens, and prompts with responses have "
            f"{wanted}.",
            "Raise vLLM's --max-model-len, or lower --max-new-tokens.",
        )
    by = synced_by(config, adapts=config.adapts)
    listener.say(f"writer: {server.engine} at {server.endpoint.shown}, weights by --sync {by}")
    size = ModelLimits.of(policy.model).tokens
    remote = RemoteWriter(server, limits, size, server.endpoint.model)
    form = PUBLISHERS[by].form

    def save(folder: Path) -> None:
        write_policy(policy, tokenizer, folder, "", lambda weight: weight, form=form)

    def prepared() -> Any:
        return written_in(accelerator, policy)

    trainer = trainer_of(policy, tokenizer, prepared, compute_dtype(policy, config))
    run = RunDir(Path(config.output))
    longest = min(one for one in (server.longest, limits.context, 2**31) if one is not None)
    return ServedPolicy(remote, trainer, save, config, run, Pool.of(ids, longest), accelerator, listener)
