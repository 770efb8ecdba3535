"""Every layout of preference data in one table, `FORMATS`: its columns, and the reader of one row.

To add one: write a reader beside its kind (`pair_layouts`, `rating_layouts`, `step_layouts`, `answer_layouts`), add a
row to the table. Choosing pairs out of ratings, dropping and counting is the work of `examples`; tokens are the work
of `tokenize`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenq.data import answer_layouts as answers
from tokenq.data import pair_layouts as pairs
from tokenq.data import rating_layouts as ratings
from tokenq.data import step_layouts as steps
from tokenq.data.cells import Values
from tokenq.data.parsed import Parsed


@dataclass(frozen=True)
class Format:
    """One format of the ecosystem.

    Attributes:
        columns: the columns that a row must have; "a|b" is either.
        read: one row to its parts; raises `BadRow`.
        holds: "pairs", "ratings" (from which pairs can be chosen) or "responses".
        grouped: whether consecutive rows with one prompt make one example.
        fits: what the values must look like besides the names of their columns.
    """

    columns: tuple[str, ...]
    read: Callable[[Values], Parsed]
    holds: str
    grouped: bool = False
    fits: Callable[[Values], bool] = lambda values: True

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Return the required columns that `columns` lacks."""
        return [name for name in self.columns if not any(option in columns for option in name.split("|"))]

    def used(self, columns: Sequence[str]) -> set[str]:
        """Return those of `columns` that this format reads as a required column."""
        return {option for name in self.columns for option in name.split("|") if option in columns}


FORMATS: dict[str, Format] = {
    "stepwise": Format(("prompt", "completions", "labels"), steps.read_stepwise, "ratings", grouped=True),
    "first error": Format(("|".join(steps.ASKED), "steps", "mistake_index|label"), steps.read_first_error, "ratings"),
    "nectar": Format(("prompt", "answers"), ratings.read_nectar, "ratings"),
    "ultrafeedback": Format(("instruction", "completions"), ratings.read_ultrafeedback, "ratings"),
    "comparison": Format(("info", "summaries", "choice"), pairs.read_comparison, "pairs"),
    "solutions": Format(
        ("question", "ground_truth"), steps.read_solutions, "ratings", fits=lambda row: bool(steps.solutions(row))
    ),
    "helpsteer preference": Format(
        ("context|prompt", "response1|response_1", "response2|response_2", "overall_preference|preference_strength"),
        ratings.read_two_responses,
        "ratings",
    ),
    "rated": Format(("prompt", "completion|response", "ratings"), ratings.read_rated, "ratings", grouped=True),
    "helpsteer": Format(("prompt", "response", "helpfulness"), ratings.read_helpsteer, "ratings", grouped=True),
    "conversation preference": Format(("conversations", "chosen", "rejected"), pairs.read_conversation_pair, "pairs"),
    "step preference": Format(
        ("prompt", "initial_reason_steps", "chosen", "rejected"), pairs.read_step_preference, "pairs"
    ),
    "preference": Format(("prompt", "chosen", "rejected"), pairs.read_preference, "pairs"),
    "question preference": Format(
        ("question|instruction|input", "chosen", "rejected"), pairs.read_question_pair, "pairs"
    ),
    "implicit preference": Format(("chosen", "rejected"), pairs.read_implicit, "pairs"),
    "rewarded": Format(("prompt", "completion|response", "reward"), ratings.read_rewarded, "ratings", grouped=True),
    "labelled": Format(("prompt", "completion|response", "label"), ratings.read_labelled, "ratings", grouped=True),
    "completion": Format(("prompt", "completion|response"), answers.read_completion, "responses"),
    "messages": Format(("messages|conversations",), answers.read_messages, "responses"),
    "instruction preference": Format(
        ("instruction", "output"),
        pairs.read_instruction_pair,
        "pairs",
        fits=lambda row: isinstance(row["output"], list),
    ),
    "instruction": Format(("instruction", "output"), answers.read_instruction, "responses"),
    "question": Format(("question", "answer"), answers.read_answer, "responses"),
    "text": Format(("text",), answers.read_text, "responses"),
}
"""Every format by name, the more specific first: a data set has the first format whose columns it has."""
