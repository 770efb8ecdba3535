"""The requests that run: their prompts are read, their choices written, a token of each at a time."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tokenq.models.forward.policy import without_adapter
from tokenq.models.forward.streams.group import Stream
from tokenq.models.forward.streams.memory import Said, shared_length
from tokenq.models.forward.streams.reading import Reading, likeliest
from tokenq.models.forward.streams.streams import Streams
from tokenq.models.open import OpenedPair
from tokenq.search.sampling import Dice, mixed_seed
from tokenq.server.engine.choosing import Drawing, choose, others
from tokenq.server.engine.counters import Counters
from tokenq.server.engine.request import PromptLogps, Token, Tops
from tokenq.server.engine.ticket import Line, Ticket

SHARED = 16
"""Tokens that a prompt must have in common with one that is being read for it to wait until these are known."""

ALONE = 8
"""How many times more tokens are read between two steps when nothing is written that would have to wait."""


@dataclass(eq=False)
class Choice:
    """A text that is written for a request.

    Attributes:
        number: of the choice.
        dice: its random numbers.
        streams: the text in each model that reads it, the policy first.
        token: the last that was chosen, which the models have not read.
        count: tokens so far.
    """

    number: int
    dice: Dice
    streams: list[Stream]
    token: int = -1
    count: int = 0


@dataclass(eq=False)
class Running:
    """A request that has begun.

    Attributes:
        ticket: the request.
        drawing: how its tokens are drawn.
        readings: its prompt, in each model that reads it.
        choices: those that are not over; none before the prompt is read.
    """

    ticket: Ticket
    drawing: Drawing
    readings: list[Reading]
    choices: list[Choice] = field(default_factory=list)

    @property
    def read(self) -> bool:
        """Whether all models have read the prompt."""
        return not any(one.left for one in self.readings)


class Writing:
    """All requests that run on a pair.

    Args:
        pair: policy and reference.
        most_running: most choices at a time.
        most_kept: bytes of keys and values that each model keeps of texts that have ended.
        chunk: most tokens of prompts that are read beside a step.
        counters: are told.
    """

    def __init__(self, pair: OpenedPair, *, most_running: int, most_kept: int, chunk: int, counters: Counters) -> None:
        policy, reference = pair.models.policy, pair.models.reference
        own = Streams(policy, most_kept)
        base = Streams(reference or policy, most_kept, *(() if reference else (lambda: without_adapter(policy.model),)))
        self.models = [own, base]
        self._device = policy.device
        self._most, self._chunk, self._counters = most_running, chunk, counters
        self._reading: list[Running] = []
        self._running: list[Running] = []

    @property
    def idle(self) -> bool:
        """Whether no request runs."""
        return not (self._reading or self._running)

    @property
    def choices(self) -> int:
        """Choices that are written, or will be when their prompts are read."""
        return sum(len(one.choices) for one in self._running) + sum(one.ticket.asked.n for one in self._reading)

    def step(self, line: Line | None) -> None:
        """Let requests of the line begin, read prompts, and write one token of every choice.

        Args:
            line: requests that wait; None where none of them may begin.
        """
        begin = time.perf_counter()
        self._leave()
        reads = self._reads(line)
        given = [(one, choice) for one in self._running for choice in one.choices]
        if given or any(reads):
            self._advance(given, reads)
        if self.idle:  # the last have left: nobody takes a step any more that would drop their keys and values
            for model in self.models:
                model.step([])
        self._counters.steps += 1
        self._counters.step_seconds += time.perf_counter() - begin

    def fail(self, problem: BaseException) -> None:
        """End all requests with a problem, and drop all keys and values."""
        self._fail([*self._reading, *self._running], problem)
        for model in self.models:
            model.forget()

    def _fail(self, requests: Sequence[Running], problem: BaseException) -> None:
        for one in list(requests):
            self._end(one, "failed", problem)

    def _end(self, one: Running, how: str, problem: BaseException | None = None) -> None:
        for place in (self._reading, self._running):
            if one in place:
                place.remove(one)
        self._counters.ended[how] += 1
        one.ticket.end(problem)

    def _leave(self) -> None:
        """End what was called off."""
        for one in [*self._reading, *self._running]:
            stopped = one.ticket.stopped
            one.choices = [choice for choice in one.choices if choice.number not in stopped]
            if one.ticket.cancelled:
                self._end(one, "cancelled")
            elif (one.read and not one.choices) or len(stopped) >= one.ticket.asked.n:
                self._end(one, "done")

    def _reads(self, line: Line | None) -> list[list[tuple[Reading, int]]]:
        """Return the prompts that each model reads now, and how many tokens of each."""
        chunk = self._chunk * (1 if self._running else ALONE)
        rest = [chunk, chunk]
        reads: list[list[tuple[Reading, int]]] = [[], []]
        for one in self._in_turn(line):
            shares = [
                model.share(reading, left) if left > 0 else 0
                for model, reading, left in zip(self.models, one.readings, rest, strict=False)
            ]
            ends = all(share == reading.left for share, reading in zip(shares, one.readings, strict=True))
            for place, (share, reading) in enumerate(zip(shares, one.readings, strict=True)):
                if not ends:  # both models are to end in the same step: what is chosen next depends on both
                    share = min(share, reading.left - 1) if self.models[place].keeps(len(reading.prompt)) else 0
                if share:
                    reads[place].append((reading, share))
                    rest[place] -= share
            if min(rest) <= 0:
                break
        self._counters.tokens_read += sum(share for _, share in reads[0])
        return reads

    def _in_turn(self, line: Line | None) -> Iterator[Running]:
        """Yield the requests whose prompts are read, then those that begin."""
        yield from list(self._reading)
        while line is not None and (ticket := line.next()) is not None:
            if self.choices + ticket.asked.n > self._most:
                return
            one = self._begun(ticket)
            if self._comes_to_be_known(one):
                return
            line.take()
            self._counters.tokens_known += one.readings[0].done
            self._reading.append(one)
            yield one

    def _begun(self, ticket: Ticket) -> Running:
        asked = ticket.asked
        models = self.models if asked.rewards else self.models[:1]
        alternatives = asked.top_logprobs if asked.prompt_logps else None
        bias = None
        if asked.logit_bias:
            bias = torch.tensor(list(asked.logit_bias)), torch.tensor(list(asked.logit_bias.values()))
        readings = [model.begin(asked.prompt, alternatives) for model in models]
        return Running(ticket, Drawing(asked.sampling, bias), readings)

    def _comes_to_be_known(self, new: Running) -> bool:
        """Return whether much of a prompt is being read for another request: it is not read twice."""
        reading = new.readings[0]
        if not self.models[0].memory.most or not self.models[0].keeps(len(reading.prompt)):
            return False
        prompt = np.asarray(reading.prompt)
        common = [shared_length(prompt, np.asarray(one.readings[0].prompt)) for one in self._reading]
        return max(common, default=0) - reading.done >= max(SHARED, len(prompt) // 4)

    def _advance(self, given: list[tuple[Running, Choice]], reads: list[list[tuple[Reading, int]]]) -> None:
        """Take a step in both models, choose a token of every choice, and deliver it."""
        beside = [given, [(one, choice) for one, choice in given if one.ticket.asked.rewards]]
        tables: list[Tensor] = []
        rows: list[dict[Choice, int]] = []
        ends: list[dict[Reading, int]] = []
        for place, own in enumerate(beside):
            logps, read = self._stepped(
                place, [(choice.streams[place], choice.token) for _, choice in own], reads[place]
            )
            tables.append(logps)
            rows.append({choice: row for row, (_, choice) in enumerate(own)})
            ends.append({reading: row for row, reading in enumerate(read, len(own))})
        for one in [one for one in self._reading if one.read]:
            self._reading.remove(one)
            self._running.append(one)
            self._say_prompt(one)
            self._open(one)
            for choices, known, reading in zip(rows, ends, one.readings, strict=False):
                choices |= dict.fromkeys(one.choices, known[reading])
        now = [(one, choice) for one in self._running for choice in one.choices if choice in rows[0]]
        if now:
            self._write(now, (tables[0], rows[0]), (tables[1], rows[1]))
        self._leave()

    def _stepped(
        self, place: int, given: list[tuple[Stream, int]], reads: list[tuple[Reading, int]]
    ) -> tuple[Tensor, list[Reading]]:
        """Return the log-probs of a model's step, and the prompts that have their ends in it, in the order of its rows.

        A step that fails is taken without the newcomers, who may be to blame: the others go on.
        """
        there = [reading for one in self._reading for reading in one.readings]
        reads = [(reading, count) for reading, count in reads if reading in there]
        model = self.models[place]
        try:
            logps = model.step(given, reads)
        except Exception as problem:
            if not reads:
                raise
            newcomers = [reading for reading, _ in reads]
            self._fail([one for one in self._reading if set(newcomers) & set(one.readings)], problem)
            logps, reads = model.step(given), []
        return logps, [reading for reading, _ in reads if not reading.left]

    def _open(self, one: Running) -> None:
        """Let the choices of a request begin behind its prompt."""
        asked = one.ticket.asked
        if one.ticket.most == 0:
            return
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        streams = [model.enter(reading, asked.n) for model, reading in zip(self.models, one.readings, strict=False)]
        dice = [Dice(mixed_seed(seed, asked.prompt, number)) for number in range(asked.n)]
        one.choices = [Choice(number, own, [each[number] for each in streams]) for number, own in enumerate(dice)]

    def _write(
        self,
        now: Sequence[tuple[Running, Choice]],
        policy: tuple[Tensor, dict[Choice, int]],
        reference: tuple[Tensor, dict[Choice, int]],
    ) -> None:
        """Choose a token of every choice and deliver it."""
        (logps, rows), (ref_logps, ref_rows) = policy, reference
        places = [rows[choice] for _, choice in now]
        tokens = choose(logps, places, [one.drawing for one, _ in now], [choice.dice for _, choice in now])
        values = logps[torch.tensor(places), torch.tensor(tokens)].tolist()
        tops = _tops(logps, places, [one.ticket.asked.top_logprobs for one, _ in now])
        beside = [row for _, choice in now if (row := ref_rows.get(choice)) is not None]
        theirs: Iterator[tuple[float, Tops]] = iter(())
        if beside:
            own = [number for number, (_, choice) in enumerate(now) if choice in ref_rows]
            theirs = _beside(ref_logps, beside, [(tokens[place], tops[place]) for place in own])
        for (one, choice), token, logp, top in zip(now, tokens, values, tops, strict=True):
            ref_logp, ref_top = next(theirs) if choice in ref_rows else (None, ())
            rest = others(logps[rows[choice]], top, ref_top)
            choice.token, choice.count = token, choice.count + 1
            over = token in one.ticket.asked.eos
            finish = "stop" if over else "length" if choice.count >= one.ticket.most else None
            if finish is not None:
                one.choices.remove(choice)
            if not one.ticket.cancelled and choice.number not in one.ticket.stopped:
                one.ticket.give(Token(choice.number, token, logp, top, ref_logp, ref_top, finish, rest))
        self._counters.tokens_written += len(now)

    def _say_prompt(self, one: Running) -> None:
        """Deliver the log-probs of a prompt where they are asked for."""
        if not one.ticket.asked.prompt_logps:
            return
        logps, tops = _columns(one.readings[0].said)
        if len(one.readings) == 1:
            one.ticket.give(PromptLogps(logps, tops))
        else:
            one.ticket.give(PromptLogps(logps, tops, *_columns(one.readings[1].said)))


def _columns(said: Sequence[Said]) -> tuple[tuple[float | None, ...], tuple[Tops, ...]]:
    """Return log-probs and alternatives of the tokens of a prompt, the first of which nothing predicts."""
    return (None, *(logp for logp, _ in said)), ((), *(tops for _, tops in said))


def _tops(logps: Tensor, places: Sequence[int], counts: Sequence[int]) -> list[Tops]:
    """Return the likeliest tokens at some rows, as many as each is to have."""
    found: list[Tops] = [()] * len(places)
    asking = [place for place, count in enumerate(counts) if count]
    if asking:
        table = logps[torch.tensor([places[place] for place in asking])]
        for place, top in zip(asking, likeliest(table, max(counts)), strict=True):
            found[place] = top[: counts[place]]
    return found


def _beside(logps: Tensor, rows: Sequence[int], told: Sequence[tuple[int, Tops]]) -> Iterator[tuple[float, Tops]]:
    """Yield log π_ref of the tokens that were chosen, of the reference's likeliest, and of the others of the policy."""
    most = max(len(top) for _, top in told)
    table = logps[torch.tensor(rows)]
    for row, (token, top), likely in zip(table, told, likeliest(table, most), strict=True):
        own = likely[: len(top)]
        others = [one for one, _ in top if one not in dict(own)]
        known = row[torch.tensor([token, *others])].tolist()
        yield known[0], (*own, *zip(others, known[1:], strict=True))
