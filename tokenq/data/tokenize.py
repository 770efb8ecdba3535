"""Examples to token groups: the prompt/response boundary in token space, BOS, EOS, masks and limits of length.

One text is tokenised once and whole: the ids of a prompt followed by those of a response are the ids of their text.
The prompt ends where the ids of the prompt alone and of the prompt with each response stop being the same; tokens that
merge over the end of the prompt belong to the responses. This module is the only owner of the response mask.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.data.acted import Acting, is_acted
from tokenq.data.bad_rows import BadRowsError, UnusableRow, nothing_left
from tokenq.data.chat.cut_turns import cut_turns
from tokenq.data.chat.rendering import INSIDE, RenderedExample, RenderedResponse, render
from tokenq.data.chat.template import Tokenizer
from tokenq.data.encoding import EncodedText, Encoder, Ids, ResponseText, common_tokens
from tokenq.data.summary import DataSummary, summarise
from tokenq.data.truncation import TOO_LONG, TRUNCATIONS, LengthLimits, too_long
from tokenq.data.turns import BadRow, common_length
from tokenq.errors import UserError, unknown_name
from tokenq.records.examples import Example, TokenGroup, TokenResponse

_BATCH = 4096


@dataclass(frozen=True, eq=False)
class TokenizedData:
    """A data set in token space.

    Attributes:
        groups: one for each example that was kept, in order.
        summary: what became of the rows.
        texts: for each group the texts of its responses, where they were asked for.
        bad: rows that give no group, whatever the limits of length; they are among what the summary calls dropped.
        digest: of all groups, where it is known already.
        keys: yields the `group_key` of each, where they are known already.
    """

    groups: Sequence[TokenGroup]
    summary: DataSummary
    texts: tuple[tuple[ResponseText, ...], ...] = ()
    bad: tuple[UnusableRow, ...] = ()
    digest: str = ""
    keys: Callable[[], Iterator[str]] | None = None


def tokenize(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    max_prompt_length: int | None = None,
    truncation: str = "drop",
    rows: int | None = None,
    dropped: Mapping[str, int] | None = None,
    with_texts: bool = False,
) -> TokenizedData:
    """Tokenise examples, and account for what was dropped or cut.

    Args:
        examples: what `read_examples` gave.
        tokenizer: a tokenizer of `transformers`, or anything that does the same.
        max_length: most tokens of a prompt with one of its responses, BOS and EOS counted; None for no limit.
        max_prompt_length: most tokens of a prompt; None for no limit of its own.
        truncation: what to do with longer ones: "drop" (count), "error", "prompt_left" (cut the prompt from the left),
            "response_right" (cut responses, which are then not terminal) or "both" (the prompt first).
        rows: rows read, for the account; the number of examples when None.
        dropped: what was left out on the way here, for the account.
        with_texts: whether to say where every token of a response stands in its text.

    Raises:
        UserError: for a tokenizer without EOS, or one that cannot say where its tokens stand when `with_texts`; a row
            over the limits when `truncation` is "error"; nothing left.
    """
    work = Tokenization.of(tokenizer, max_length, max_prompt_length, truncation, with_texts=with_texts)
    work.lost.update(dropped or {})
    groups: list[TokenGroup] = []
    texts: list[tuple[ResponseText, ...]] = []
    for one in work.groups(examples):
        groups.append(one.group)
        texts.append(one.texts)
    work.lost.update(one.problem.reason for one in work.bad)
    if work.long and truncation == "error":
        raise too_long(work.long, work.limits)
    if not groups:
        raise nothing_left(work.lost, work.bad)
    summary = summarise(groups, len(examples) if rows is None else rows, work.lost, work.mended)
    return TokenizedData(groups, summary, tuple(texts) if with_texts else (), tuple(work.bad))


class Tokenized(NamedTuple):
    """An example in token space.

    Attributes:
        place: of the example among those that were given.
        group: its group, within the limits of length.
        texts: those of its responses, where they were asked for.
        mended: what was mended, under the names of the attributes of `DataSummary`.
    """

    place: int
    group: TokenGroup
    texts: tuple[ResponseText, ...]
    mended: Counter[str]


@dataclass(frozen=True, eq=False)
class Tokenization:
    """Tokenises examples one part after the other, with an account of all of them.

    Attributes:
        encoder: texts to ids.
        limits: of length.
        truncation: what to do with longer ones.
        lost: what was left out, by reason, beside the bad rows.
        mended: what was mended.
        long: groups over the limits that were left out.
        bad: rows that give no group, whatever the limits.
    """

    encoder: Encoder
    limits: LengthLimits
    truncation: str
    lost: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    long: list[TokenGroup] = field(default_factory=list)
    bad: list[UnusableRow] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        max_length: int | None,
        max_prompt_length: int | None,
        truncation: str,
        *,
        with_texts: bool,
    ) -> "Tokenization":
        """Return a tokenisation that has seen nothing; the arguments are those of `tokenize`."""
        if truncation not in TRUNCATIONS:
            raise unknown_name("truncation", truncation, TRUNCATIONS)
        if (max_length is not None and max_length < 2) or (max_prompt_length is not None and max_prompt_length < 1):
            raise UserError("max_length must be at least 2 and max_prompt_length at least 1.", "Raise the limits.")
        encoder = Encoder.of(tokenizer, with_texts)
        return cls(encoder, LengthLimits(max_length, max_prompt_length, kept=len(encoder.prefix)), truncation)

    def groups(self, examples: Sequence[Example]) -> Iterator[Tokenized]:
        """Yield the groups of examples, in order, that are within the limits."""
        for start in range(0, len(examples), _BATCH):
            places = range(start, min(start + _BATCH, len(examples)))
            for place, group, said, counts in _groups(examples, places, self.encoder, self.bad):
                fitted = TRUNCATIONS[self.truncation](group, self.limits)
                reason = fitted if isinstance(fitted, str) else _unusable(fitted)  # once it is cut
                if reason:
                    self.lost[reason] += 1
                    self.long.extend([group] * (reason in TOO_LONG and self.truncation == "error"))
                elif not isinstance(fitted, str):
                    if fitted is not group:
                        counts.update(cut_turns(examples[place], group, fitted, self.encoder))
                    counts["truncated_prompts"] += len(fitted.prompt_ids) < len(group.prompt_ids)
                    both = zip(group.responses, fitted.responses, strict=True)
                    counts["truncated_responses"] += sum(len(cut.ids) < len(whole.ids) for whole, cut in both)
                    self.mended.update(counts)
                    yield Tokenized(place, fitted, tuple(map(ResponseText.fitted, said, fitted.responses)), counts)


def refuse_bad(data: TokenizedData) -> None:
    """Refuse data with rows that cannot be used after tokenisation.

    Raises:
        BadRowsError: a chat template refuses a row, a response has no tokens, and the like; names the first.
    """
    if data.bad:
        raise BadRowsError(data.bad, data.summary.rows)


def _groups(
    examples: Sequence[Example], places: Sequence[int], encoder: Encoder, bad: list[UnusableRow]
) -> Iterable[tuple[int, TokenGroup, tuple[ResponseText, ...], Counter[str]]]:
    """Yield (place, group, not yet cut, texts if located, counts of what was mended) of examples.

    Those that give none are added to `bad`.
    """
    rendered: list[tuple[int, RenderedExample | None]] = []
    acting = Acting(encoder)
    for place in places:
        if is_acted(examples[place]):
            rendered.append((place, None))
            continue
        marks = () if isinstance(examples[place].prompt, str) else encoder.marks
        try:
            rendered.append((place, render(examples[place], encoder.tokenizer, marks)))
        except BadRow as error:
            bad.append(UnusableRow(place, examples[place].where, error))
    table = encoder.encode(text for _, one in rendered if one is not None for text in _texts(one))
    for place, one in rendered:
        counts: Counter[str] = Counter()
        example = examples[place]
        try:
            group = acting.group(example) if one is None else _group(example, one, encoder, table, counts)
            if reason := _unusable(group):
                raise BadRow(reason)
        except BadRow as error:
            bad.append(UnusableRow(place, example.where, error))
        else:
            located = encoder.locates and (acting.texts(example, group) if one is None else _located(one, table, group))
            yield place, group, located or (), counts


def _texts(rendered: RenderedExample) -> Iterable[str]:
    """Yield every text of an example whose ids are needed."""
    yield rendered.prompt
    for response in rendered.responses:
        yield response.full
        for span in response.spans or ():
            yield from (response.full[:place] for place in span if 0 < place < len(response.full))


def _group(
    example: Example,
    rendered: RenderedExample,
    encoder: Encoder,
    table: Mapping[str, EncodedText],
    counts: Counter[str],
) -> TokenGroup:
    """Return the group of one example; count mended responses in `counts`.

    Raises:
        BadRow: the example gives none.
    """
    prompt = table[rendered.prompt]
    wholes = [table[response.full] for response in rendered.responses]
    size = min(common_tokens(prompt.ids, whole.ids) for whole in wholes)
    if size == 0:  # no BOS, and an empty prompt or one that merges whole: the first token has nothing before it
        size = min(1, min(common_tokens(wholes[0].ids, whole.ids) for whole in wholes))
        if size == 0:
            said = "the responses begin with different tokens, the prompt has none, and the tokenizer writes no BOS"
            raise BadRow("no common first token and no BOS", said)
    responses = []
    for source, response, whole in zip(example.responses, rendered.responses, wholes, strict=True):
        mask = _mask(response, whole, size, table)
        own = whole.ids[size:]
        ended = TokenResponse(own, mask, False) if source.goes_on else _ended(own, mask, encoder.eos, counts)
        counts["eos_cut"] += response.trimmed and whole.ids[-1] == encoder.eos
        counts["rewritten_turns"] += response.rewritten_turns
        if len(ended.ids) < 1 + ended.terminal:
            raise BadRow("response without tokens", "a response has no token besides EOS")
        if not rendered.is_chat and encoder.eos in ended.ids[:-1]:
            raise BadRow(INSIDE, f"a response goes on after {encoder.tokenizer.eos_token!r}, which ends it")
        responses.append(replace(ended, role=source.role, given=source))
    counts["template_rewrites"] += rendered.is_rewritten
    counts["dated"] += rendered.is_dated
    counts["without_prompt"] += not rendered.prompt
    counts["boundary_merges"] += size < len(prompt.ids) and not rendered.is_rewritten
    counts["bos_added"] += rendered.is_chat and prompt.shift > 0
    counts["bos_removed"] += prompt.shift < 0
    return TokenGroup(wholes[0].ids[:size].copy(), tuple(responses), example.is_pair, example.where, example.margin)


def _located(
    rendered: RenderedExample, table: Mapping[str, EncodedText], group: TokenGroup
) -> tuple[ResponseText, ...]:
    """Return the positions of the response tokens of a group in their texts."""
    size, texts, prompt = len(group.prompt_ids), [], table[rendered.prompt].ids
    parted = min(common_length(rendered.prompt, written.full) for written in rendered.responses)
    for written, response in zip(rendered.responses, group.responses, strict=True):
        whole = table[written.full]
        reached = np.maximum.accumulate(np.zeros_like(whole.ids) if whole.ends is None else whole.ends)
        # Without a token of its own, the prompt has borrowed the first one of the responses, with its text.
        begin = max(parted, int(reached[0])) if common_tokens(prompt, whole.ids) < size else parted
        text, own = written.full[begin:], (reached[size:] - begin).clip(min=0)
        ends = np.full(len(response.ids), len(text), np.int32)
        shared = min(len(own), len(ends))
        ends[:shared] = own[:shared]
        if shared < len(own):  # of several EOS in the text, one was kept
            text = text[: int(ends[-1])]
        else:  # blanks that the tokenizer drops belong to the last token
            ends[shared - 1] = len(text)
        texts.append(ResponseText(written.full[:begin], text, ends))
    return tuple(texts)


def _mask(
    response: RenderedResponse, whole: EncodedText, size: int, table: Mapping[str, EncodedText]
) -> NDArray[np.bool_]:
    """Return a mask of the tokens after the first `size` that the policy wrote."""
    mask = np.zeros(len(whole.ids), np.bool_)
    if response.token_mask is not None:
        marks = np.array(response.token_mask, np.bool_)[max(-whole.shift, 0) :]
        start = max(whole.shift, 0)
        marks = marks[: len(mask) - start]
        mask[start : start + len(marks)] = marks
    within = np.full(len(whole.ids), response.spans is None)
    for start, end in response.spans or ():
        first = common_tokens(table[response.full[:start]].ids, whole.ids) if start else 0
        last = common_tokens(table[response.full[:end]].ids, whole.ids) if end < len(response.full) else len(mask)
        within[first:last] = True
    return (within if response.token_mask is None else mask & within)[size:]


def _ended(ids: Ids, mask: NDArray[np.bool_], eos: int, counts: Counter[str]) -> TokenResponse:
    """Return a response with exactly one EOS at its end, which the policy wrote."""
    end = len(ids)
    while end >= 2 and ids[end - 1] == ids[end - 2] == eos:
        end -= 1
    counts["eos_cut"] += end < len(ids)
    if end and ids[end - 1] == eos:
        ids, mask = ids[:end].copy(), mask[:end].copy()
        mask[-1] = True
        return TokenResponse(ids, mask, terminal=True)
    counts["eos_added"] += 1
    return TokenResponse(np.append(ids, np.int32(eos)), np.append(mask, True), terminal=True)


def _unusable(group: TokenGroup) -> str:
    """Return why a group teaches nothing, "" if it does."""
    if not all(response.mask.any() for response in group.responses):
        return "no token of the policy in a response"
    if group.is_pair and np.array_equal(group.responses[0].ids, group.responses[1].ids):
        return "chosen equals rejected"
    return ""
