"""The table of layouts, `FORMATS`: the columns of each, and the function that reads a row.

To add one: write a reader beside its kind (`pair_layouts`, `comparison_layouts`, `rating_layouts`, `ranking_layouts`,
`step_layouts`, `answer_layouts`), add a row to the table. Choosing pairs out of ratings, dropping and counting is the
work of `examples`; tokens are the work of `tokenize`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenq.data.layouts import answers, chains, comparisons, episodes, pairs, rankings, ratings, steps
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import ANSWER, CHOSEN, CONVERSATION, QUESTION, REJECTED, ParsedRow


@dataclass(frozen=True)
class Format:
    """One format of the ecosystem.

    Attributes:
        columns: the columns that a row must have; "a|b" is either.
        read: one row to its parts; raises `BadRow`.
        holds: "pairs", "ratings" (from which pairs can be chosen) or "responses".
        grouped: whether consecutive rows with one prompt make one example.
        apart: what can be asked for that each row gives by itself all the same: keys of `SELECTIONS`.
        fits: what the values must look like besides the names of their columns.
        note: what is to be said of data like a row, where it could be read in more than one way.
    """

    columns: tuple[str, ...]
    read: Callable[[Values], ParsedRow]
    holds: str
    grouped: bool = False
    apart: tuple[str, ...] = ()
    fits: Callable[[Values], bool] = lambda values: True
    note: Callable[[Values], str] = lambda values: ""

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Return the required columns that `columns` lacks."""
        return [name for name in self.columns if not any(option in columns for option in name.split("|"))]

    def shown(self) -> str:
        """Return the required columns in words, naming the first of alternatives."""
        return ", ".join(name.split("|")[0] for name in self.columns)

    def used(self, columns: Sequence[str]) -> set[str]:
        """Return those of `columns` that this format reads as a required column."""
        return {option for name in self.columns for option in name.split("|") if option in columns}


_ASKED = "|".join(QUESTION)
_PROMPT = f"prompt|{_ASKED}"
_CHOSEN, _REJECTED, _ANSWER = "|".join(CHOSEN), "|".join(REJECTED), "|".join(ANSWER)
_TALK, _LABEL = "|".join(CONVERSATION), "|".join(answers.LABELS)
_REPLY = "completion|response"

FORMATS: dict[str, Format] = {
    "episode": Format(
        ("turns", "return", "seed", "terminal"),
        episodes.read_episode,
        "ratings",
        grouped=True,
        apart=("responses",),
        fits=episodes.is_episode,
    ),
    "stepwise": Format(("prompt", "completions", "labels"), steps.read_stepwise, "ratings", grouped=True),
    "first error": Format(("|".join(steps.ASKED), "steps", "mistake_index|label"), steps.read_first_error, "ratings"),
    "marked steps": Format(("input", "label"), steps.read_marked, "ratings", fits=steps.is_marked),
    "path of steps": Format(("question", "label"), steps.read_prm800k, "ratings", fits=steps.is_prm800k),
    "signed steps": Format((_TALK,), steps.read_signed, "ratings", fits=steps.is_signed),
    "stack exchange": Format(
        ("question", "answers"), rankings.read_stack_exchange, "ratings", fits=rankings.has_scored_answers
    ),
    "nectar": Format(("prompt", "answers"), ratings.read_nectar, "ratings"),
    "ultrafeedback": Format(("instruction", "completions"), ratings.read_ultrafeedback, "ratings"),
    "comparison": Format(("info", "summaries", "choice"), pairs.read_summary_comparison, "pairs"),
    "rated summary": Format(("info", "summary"), rankings.read_summary_ratings, "ratings", grouped=True),
    "chain": Format(("article|prompt", "|".join(chains.SUMMARIES)), chains.read_chain, "ratings", fits=chains.is_chain),
    "solutions": Format(
        ("question", "ground_truth"), steps.read_solutions, "ratings", fits=lambda row: bool(steps.solutions(row))
    ),
    "helpsteer preference": Format(
        ("context|prompt", "response1|response_1", "response2|response_2", "overall_preference|preference_strength"),
        ratings.read_two_responses,
        "ratings",
    ),
    "votes": Format(("history", "human_ref_A", "human_ref_B", "labels"), comparisons.read_shp, "pairs"),
    "better answer first": Format(("question", "response_j", "response_k"), comparisons.read_stack_pair, "pairs"),
    "battle in lists": Format(
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        comparisons.read_battle_lists,
        "pairs",
        fits=comparisons.has_battle_lists,
    ),
    "battle": Format(("conversation_a", "conversation_b", "winner"), comparisons.read_conversations, "pairs"),
    "two responses": Format(
        ("|".join(comparisons.ASKED), comparisons.FIRST, comparisons.SECOND),
        comparisons.read_comparison,
        "pairs",
        fits=comparisons.is_comparison,
        note=comparisons.what_decides,
    ),
    "preferred output": Format(
        ("input", "preferred_output", "non_preferred_output"), comparisons.read_openai_preference, "pairs"
    ),
    "scored completions": Format(("contents", "completions"), rankings.read_vertex, "ratings"),
    "right and wrong": Format((_PROMPT, _CHOSEN, _REJECTED), rankings.read_listed, "ratings", fits=rankings.is_listed),
    "scored list": Format(
        (_PROMPT, "|".join(rankings.LISTS), "|".join(rankings.SCORES)),
        rankings.read_scored_list,
        "ratings",
        fits=lambda row: "chosen" not in row,
    ),
    "advantages": Format(("prompt", _REPLY, "advantages"), ratings.read_advantages, "ratings", grouped=True),
    "weighted": Format(("prompt", _REPLY, "target_weights"), ratings.read_advantages, "ratings", grouped=True),
    "rated": Format(("prompt", _REPLY, "ratings"), ratings.read_rated, "ratings", grouped=True),
    "helpsteer": Format(("prompt", "response", "helpfulness"), ratings.read_helpsteer, "ratings", grouped=True),
    "step preference": Format(
        ("prompt", "initial_reason_steps", "chosen", "rejected"), pairs.read_step_preference, "pairs"
    ),
    "preference": Format(("prompt", _CHOSEN, _REJECTED), pairs.read_preference, "pairs"),
    "conversation preference": Format(
        (f"{_TALK}|trajectory", _CHOSEN, _REJECTED), pairs.read_conversation_pair, "pairs"
    ),
    "answered preference": Format((_TALK, "|".join(pairs.ANSWERED)), pairs.read_answered_pair, "pairs"),
    "question preference": Format((_ASKED, _CHOSEN, _REJECTED), pairs.read_question_pair, "pairs"),
    "implicit preference": Format((_CHOSEN, _REJECTED), pairs.read_implicit, "pairs"),
    "rewarded": Format(("prompt", _REPLY, "reward"), ratings.read_rewarded, "ratings", grouped=True),
    "labelled": Format(("prompt", _REPLY, _LABEL), ratings.read_labelled, "ratings", grouped=True),
    "labelled answer": Format((_ASKED, _ANSWER, _LABEL), answers.read_labelled_answer, "ratings", grouped=True),
    "labelled conversation": Format((_TALK, _LABEL), answers.read_labelled_conversation, "ratings", grouped=True),
    "scored": Format(("prompt", _REPLY, "score|rating"), ratings.read_scored, "ratings", grouped=True),
    "completion": Format(("prompt", _REPLY), answers.read_completion, "responses"),
    "messages": Format((_TALK,), answers.read_messages, "responses"),
    "instruction preference": Format(
        ("instruction", "output"),
        pairs.read_instruction_pair,
        "pairs",
        fits=lambda row: isinstance(row["output"], list),
    ),
    "instruction": Format(("instruction", "output|response|completion"), answers.read_instruction, "responses"),
    "question": Format((_ASKED, f"{_ANSWER}|solution"), answers.read_answer, "responses"),
    "text": Format(("text",), answers.read_text, "responses"),
}
"""Every format by name, the more specific first: a data set has the first format whose columns it has."""
