"""A language model that rewrites prompts before they are drawn: its words are the first actions of a drawing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenq.data.prompts import Prompt, encode_prompts
from tokenq.errors import UserError
from tokenq.jobs.drawing.config import DrawConfig
from tokenq.jobs.searcher import Searcher, load_searcher
from tokenq.listener import Listener
from tokenq.records.drawings import Refinement
from tokenq.records.results import Candidate
from tokenq.runs.places import run_folder
from tokenq.search.config import SearchConfig

_LISTENED_TO = 8
"""Prompts for which a refiner may write nothing; a text now and then may be empty, and is drawn as it is."""


@dataclass(frozen=True)
class Refiner:
    """A language model, ready to rewrite prompts.

    Attributes:
        searcher: draws from it.
        weights: the identity of its weights.
    """

    searcher: Searcher
    weights: str

    def written(self, prompts: Sequence[Prompt], done: int = 0) -> Iterator[list[tuple[str, Refinement]]]:
        """Yield for each prompt that is not done what it was rewritten to, once for each of its pictures.

        Raises:
            UserError: it wrote nothing for the first prompts.
        """
        every = encode_prompts(prompts, self.searcher.tokenizer)
        silent = True
        for place, found in enumerate(self.searcher.results(prompts, done=done), done):
            silent = silent and not any(one.text.strip() for one in found.candidates)
            if silent and place + 1 in (len(prompts), done + _LISTENED_TO):
                raise UserError(
                    f"The refiner wrote nothing for any prompt up to {prompts[place].where}.",
                    "Is it the model that was trained to rewrite prompts, and --style the one of its training?",
                )
            yield [self._refined(every[place], one) for one in found.candidates]

    def _refined(self, prompt_ids: Sequence[int], one: Candidate) -> tuple[str, Refinement]:
        found = Refinement(self.weights, tuple(prompt_ids), one.token_ids, one.logps, one.pieces, one.terminal)
        return one.text.strip(), found


def load_refiner(config: DrawConfig, listener: Listener, side_by_side: int) -> Refiner | None:
    """Return the refiner of a configuration, None where it has none.

    Args:
        config: what is asked for.
        listener: told what could not be done as asked.
        side_by_side: prompts that are rewritten at a time.
    """
    if config.refiner is None:
        return None
    is_run = run_folder(config.refiner) is not None
    asked = SearchConfig(
        policy=None if is_run else config.refiner,
        run=config.refiner if is_run else None,
        prompts=config.prompts,
        method="sample",
        n=config.samples,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        batch_size=side_by_side,
        dtype=config.dtype,
        device=config.device,
    )
    searcher = load_searcher(asked, None, lambda text: listener.say(f"warning: {text}"))
    return Refiner(searcher, str(searcher.identities["policy"]["weights"]))
