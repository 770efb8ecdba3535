"""What a search found, at rest: every candidate with both models' log-probs, the tree, and what it cost.

A result is plain Python and one JSON line; pages, judges and sweeps read results and never tensors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.records.examples import Message, Text
from tokenq.records.schema import SCHEMA, built, check_schema, json_lines, whole


@dataclass(frozen=True)
class Candidate:
    """One response that a search ended with.

    Attributes:
        text: its text, without special tokens.
        token_ids: its tokens, with EOS where it has one.
        score: what the method ranks it by; larger is better.
        logps: log π of each token, in nats.
        ref_logps: log π_ref of each token, in nats; None where no reference was given.
        terminal: whether it ends in EOS (False: it was cut by a limit, a budget, or the model's context).
        answer: what it answers, where answers were extracted and it has one.
        pieces: what each token adds to the text; special tokens, and those that only begin a character, add nothing.
            Empty in results of schema 2, which did not keep them.
    """

    text: str
    token_ids: tuple[int, ...]
    score: float
    logps: tuple[float, ...]
    ref_logps: tuple[float, ...] | None
    terminal: bool
    answer: str | None = None
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchTree:
    """What was looked at on the way, as columns: node i is a token behind its parent, node 0 the prompt.

    A parent comes before its children. Beams give the lattice of what they kept, tree search its whole tree.

    Attributes:
        parents: index of the node before; −1 for the prompt.
        token_ids: the token; −1 for the prompt.
        texts: the token as text; empty for the prompt.
        logps: log π of the token, in nats; 0 for the prompt.
        scores: what the objective gives the response up to here.
        ends: whether the response is over with this token.
        visits: simulations that came through; empty for beams.
        values: estimate of the best completion; empty for beams.
    """

    parents: tuple[int, ...]
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    logps: tuple[float, ...]
    scores: tuple[float, ...]
    ends: tuple[bool, ...]
    visits: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What a prompt's search has cost.

    Attributes:
        policy_tokens: tokens that went through the policy, the prompt included.
        reference_tokens: tokens that went through the reference; in proxy tuning through all models of the small pairs.
        value_tokens: tokens of responses that a reward model, or another judge of prefixes, was shown.
        seconds: wall time; of prompts searched side by side, each has its equal share.
        peak_memory: largest memory of the process so far, in bytes (of the accelerator where there is one).
    """

    policy_tokens: int
    reference_tokens: int
    value_tokens: int
    seconds: float
    peak_memory: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found for one prompt.

    Attributes:
        id: name of the prompt: its "id" in the data, else its number.
        prompt: the prompt as given.
        method: name of the search.
        objective: what it maximised or ranked by.
        candidates: responses, best first (samples: in the order in which they were drawn); where the search was
            stopped, complete ones before those that it was still writing.
        cost: what it cost.
        tree: what was looked at on the way; None for methods that have no tree.
        stopped: "budget" or "interrupted" where that ended the search, "context" where a response filled the context of
            the model before it had --max-new-tokens; else None.
    """

    id: str
    prompt: Text
    method: str
    objective: str
    candidates: tuple[Candidate, ...]
    cost: Cost
    tree: SearchTree | None = None
    stopped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON has it, its schema version first."""
        prompt = self.prompt if isinstance(self.prompt, str) else [turn.to_dict() for turn in self.prompt]
        nested = {
            "prompt": prompt,
            "candidates": [dict(vars(one)) for one in self.candidates],
            "cost": dict(vars(self.cost)),
            "tree": None if self.tree is None else dict(vars(self.tree)),
        }
        return {"schema": SCHEMA, **vars(self), **nested}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "search result") -> "SearchResult":
        """Return the result of a JSON object.

        Args:
            record: what `to_dict` gave, perhaps by an older version.
            where: origin for error messages.

        Raises:
            UserError: the object is of a newer schema, or is no search result.
        """
        check_schema(record, where, "search result", "tokenq search")
        try:
            tree, prompt = record["tree"], record["prompt"]
            return built(
                cls,
                {name: value for name, value in record.items() if name != "schema"},
                prompt=prompt if isinstance(prompt, str) else tuple(map(Message.from_dict, prompt)),
                candidates=tuple(map(_candidate, record["candidates"])),
                cost=built(Cost, record["cost"]),
                tree=None if tree is None else _tree(tree),
            )
        except KeyError as problem:
            raise UserError(f"{where} is no search result: it has no {problem}.", "Search again.") from problem
        except (TypeError, ValueError, AttributeError) as problem:
            raise UserError(f"{where} is no search result: {problem}.", "Search again.") from problem


def _tree(record: Any) -> SearchTree:
    tree = built(SearchTree, record, **{name: tuple(column) for name, column in record.items()})
    if not all(-1 <= parent < node for node, parent in enumerate(tree.parents)):
        raise TypeError("a node of its tree stands before its parent")
    return tree


def _candidate(record: Any) -> Candidate:
    ref_logps = record["ref_logps"]
    return built(
        Candidate,
        record,
        token_ids=tuple(record["token_ids"]),
        pieces=tuple(record.get("pieces", ())),
        logps=tuple(record["logps"]),
        ref_logps=None if ref_logps is None else tuple(ref_logps),
    )


def read_results(path: Path) -> Iterator[SearchResult]:
    """Yield the results of a `.jsonl` file.

    Raises:
        UserError: there is no such file, or a line of it is no search result or of a newer schema.
    """
    if not path.is_file():
        raise UserError(f"No file {path}.", "Search results are written by tokenq search --output.")
    lines = json_lines(path, "Search again.")
    yield from whole(path, (SearchResult.from_dict(record, where) for where, record in lines))
