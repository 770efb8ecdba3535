"""The texts of one model: those that are written take a step together, and prompts are read beside them."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from tokenq.core.packing import pack
from tokenq.models.forward.attention import Attends, Layout
from tokenq.models.forward.cache import Steps
from tokenq.models.forward.packed_lm import WAYS, PackedLM
from tokenq.models.forward.stepper import as_batch, by_segments, logps_behind
from tokenq.models.forward.streams.group import Group, Root, Stream, class_of, regrouped
from tokenq.models.forward.streams.joined import Joined, Layers, Pieces
from tokenq.models.forward.streams.memory import Said, TextMemory
from tokenq.models.forward.streams.reading import Reading, said_by_logits, said_by_states
from tokenq.records.examples import TokenGroup, TokenResponse

Reads = Sequence[tuple[Reading, int]]
"""Prompts, and how many more tokens of each are read."""


class Streams:
    """What one model reads and writes for many requests.

    Prompts and texts whose keys and values are exact are read once. Others are read anew at every step, whole: all
    texts of a model that carries a state along the row, texts beyond the length up to which keys and values hold.

    Args:
        lm: the model.
        most_kept: bytes of keys and values that are kept of texts that have ended.
        switched: a block in which the model computes; one that switches an adapter off, for its base.
    """

    def __init__(
        self,
        lm: PackedLM,
        most_kept: int = 0,
        switched: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._lm, self._switched = lm, switched
        self._caches = WAYS[lm.way].shares_prompts and lm.steps
        self._head = lm.head() if self._caches else None
        self._groups: dict[int, Group] = {}
        self.memory = TextMemory(most_kept)

    @property
    def size(self) -> int:
        """Bytes of keys and values of what is written."""
        return sum(group.size for group in self._groups.values())

    def begin(self, prompt: Sequence[int], alternatives: int | None) -> Reading:
        """Return a prompt to be read, from where it is known on.

        Args:
            prompt: token ids.
            alternatives: how many are wanted at each of its tokens; None where not even their log-probs are.
        """
        reading = Reading(tuple(prompt), alternatives)
        if self.keeps(len(reading.prompt)):
            reading.layers, reading.said = self.memory.find(np.asarray(prompt, np.int64), alternatives)
            reading.done = next((keys.shape[1] for keys, _ in reading.layers.values()), 0)
        return reading

    def keeps(self, length: int) -> bool:
        """Return whether keys and values of a text of so many tokens are kept: else it is always read whole."""
        return self._caches and (self._lm.limit is None or length <= self._lm.limit)

    def share(self, reading: Reading, most: int) -> int:
        """Return how many tokens of a prompt can be read next: `most` of them, or all where it is read whole."""
        return min(reading.left, most) if self.keeps(len(reading.prompt)) else reading.left

    def enter(self, reading: Reading, count: int) -> list[Stream]:
        """Return texts that grow from a prompt that is read; they are dropped if the next step gives them no token."""
        root = Root(reading.prompt, count, reading.layers)
        return [Stream(root) for _ in range(count)]

    def step(self, given: Sequence[tuple[Stream, int]], reads: Reads = ()) -> Tensor:
        """Return the next-token log-probs [M + P, V] of all texts, and behind the P prompts that are now read whole.

        Args:
            given: every text that goes on, with its next token; a text that is not among them has left.
            reads: prompts, and how many more tokens of each are read.
        """
        self._settle([stream for stream, _ in given if self.keeps(len(stream) + 1)])
        groups = list(self._groups.values())
        steps = [Steps(group.branches, torch.arange(len(group.streams))) for group in groups]
        with torch.no_grad(), self._switched():
            kept = self._kept(given, steps, [(one, count) for one, count in reads if self.keeps(len(one.prompt))])
            whole = self._whole(given, [one for one, _ in reads if not self.keeps(len(one.prompt))])
        # A step that fails has changed no text: it can be taken again, without the prompts.
        for group, one in zip(groups, steps, strict=True):
            group.branches = one.done()
        for stream, token in given:
            stream.tokens.append(token)
        return _in_order(given, reads, kept, whole, self.keeps)

    def forget(self) -> None:
        """Drop all keys and values: weights have changed, or a step has failed."""
        self._groups.clear()
        self.memory.clear()

    def _settle(self, streams: Sequence[Stream]) -> None:
        """Part those that go on into groups; keep the texts of those that have left."""
        rows = {stream: (name, row) for name, group in self._groups.items() for row, stream in enumerate(group.streams)}
        members: dict[int, list[Stream]] = {}
        for stream in streams:
            members.setdefault(class_of(len(stream.tokens)), []).append(stream)
        self._keep_texts([place for stream, place in rows.items() if stream not in set(streams)])
        groups = {}
        for name, own in members.items():
            there = self._groups.get(name)
            if there is not None and own == there.streams:
                groups[name] = there
                continue
            stay = [stream for stream in own if rows.get(stream, (-1, 0))[0] == name]
            new: list[tuple[Stream, Layers]] = []
            for stream in own:
                other, row = rows.get(stream, (None, 0))
                if other is None:
                    new.append((stream, {}))
                elif other != name:
                    # Its prompt is taken along, out of a table of those that it leaves.
                    new.append((stream, self._groups[other].own(row)))
            for stream, grown in new:
                if grown and stream.root.table is not None:
                    root = stream.root
                    root.layers, root.table = root.text(), None
            groups[name] = regrouped(there if stay else None, [rows[one][1] for one in stay], new, self._lm.device)
        self._groups = groups

    def _keep_texts(self, places: Sequence[tuple[int, int]]) -> None:
        """Remember texts that have left; of several behind one prompt the prompt is enough."""
        if not self.memory.most:
            return
        for name, row in places:
            group = self._groups[name]
            stream = group.streams[row]
            if stream.root.branches == 1:
                self.memory.keep(stream.text, group.whole(row))

    def _kept(self, given: Sequence[tuple[Stream, int]], steps: Sequence[Steps], reads: Reads) -> Tensor | None:
        """Return the log-probs of what has keys and values: texts in the order of `given`, then prompts."""
        tokens, device = dict(given), self._lm.device
        streams = [stream for group in self._groups.values() for stream in group.streams]
        order = {stream: row for row, stream in enumerate(streams)}
        ids = [tokens[stream] for stream in streams]
        counts = [len(group.streams) for group in self._groups.values()]
        parts: list[tuple[Attends, int]] = list(zip(steps, counts, strict=True))
        positions = [one.positions for one in steps]
        written = len(ids)
        pieces = _pieces(reads, device)
        if pieces is not None:
            parts.append((pieces, sum(pieces.lengths)))
            ids += [token for one, count in reads for token in one.prompt[one.done : one.done + count]]
            positions.append(pieces.layout.positions)
        if not ids:
            return None
        hidden = self._run(torch.tensor(ids, device=device), torch.cat(positions), Joined(parts))
        ends = [] if pieces is None else list(accumulate(pieces.lengths, initial=written))
        wanted = [order[stream] for stream, _ in given if stream in order]
        for (one, count), after, start in zip(reads, [] if pieces is None else pieces.after, ends, strict=False):
            self._advance(one, count, after, hidden[start : start + count])
            if not one.left:
                wanted.append(start + count - 1)
        assert self._head is not None  # the way in which it shares prompts has proved that it has one
        return logps_behind(self._head, hidden[torch.tensor(wanted, device=device)]) if wanted else None

    def _advance(self, reading: Reading, count: int, after: Layers, hidden: Tensor) -> None:
        """Note what was read of a prompt."""
        if reading.alternatives is not None:
            assert self._head is not None
            targets = reading.prompt[reading.done + 1 : reading.done + 1 + count]
            known = len(reading.said) - reading.done
            reading.said += said_by_states(
                hidden[known : len(targets)], self._head, targets[known:], reading.alternatives
            )
        reading.done, reading.layers = reading.done + count, after
        if not reading.left and self.memory.most:
            self.memory.keep(reading.prompt, after, reading.said, reading.alternatives or 0)

    def _whole(self, given: Sequence[tuple[Stream, int]], reads: Sequence[Reading]) -> Tensor | None:
        """Return the log-probs of what is read anew: texts in the order of `given`, then prompts."""
        texts = [(*one.text, token) for one, token in given if not self.keeps(len(one) + 1)]
        for one in reads:
            if one.alternatives is not None and len(one.prompt) > 1:
                one.said = self._said(one.prompt, one.alternatives)
            one.done = len(one.prompt)
            texts.append(one.prompt)
        if not texts:
            return None
        logits = self._lm.logits(as_batch(texts), behind=0)
        return logits.tile(slice(0, len(texts)), slice(0, logits.shape[1])).T.log_softmax(-1)

    def _said(self, prompt: tuple[int, ...], alternatives: int) -> list[Said]:
        ids = np.asarray(prompt, np.int32)
        response = TokenResponse(ids[1:], np.ones(len(ids) - 1, np.bool_), terminal=False)
        logits = self._lm.logits(pack([TokenGroup(ids[:1], (response,), False, "prompt")]))
        return said_by_logits(logits, prompt[1:], alternatives)

    def _run(self, ids: Tensor, positions: Tensor, layout: Joined) -> Tensor:
        """Return the last hidden states [T, H] of a flat row."""
        with by_segments(self._lm):
            output = self._lm.lm.base_model(
                input_ids=ids[None], position_ids=positions[None], use_cache=False, tokenq_layout=layout
            )
        states: Tensor = output.last_hidden_state[0]
        return states


def _pieces(reads: Reads, device: torch.device) -> Pieces | None:
    """Return the parts of prompts that are read now."""
    if not reads:
        return None
    positions = torch.cat([torch.arange(one.done, one.done + count, device=device) for one, count in reads])
    return Pieces([one.layers for one, _ in reads], Layout((), positions), [count for _, count in reads])


def _in_order(
    given: Sequence[tuple[Stream, int]],
    reads: Reads,
    kept: Tensor | None,
    whole: Tensor | None,
    keeps: Callable[[int], bool],
) -> Tensor:
    """Return the log-probs of texts with and without keys and values in the order in which they were asked for."""
    if kept is None or whole is None:
        found = whole if kept is None else kept
        return torch.empty(0) if found is None else found
    # A text has its new token by now.
    cached = [keeps(len(one)) for one, _ in given] + [keeps(len(one.prompt)) for one, _ in reads if not one.left]
    logps = kept.new_empty(len(cached), kept.shape[1])
    into = torch.tensor(cached, device=logps.device)
    logps[into], logps[~into] = kept, whole.to(kept.dtype)
    return logps
