"""The rows of the run that margins come from: what it holds out decides nothing, what it learnt must be the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenq.data.digest import data_digest
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError
from tokenq.jobs.curation.pool import Pool, shown
from tokenq.listener import Listener
from tokenq.models.load import ModelSpec
from tokenq.models.tokenizer import load_tokenizer
from tokenq.records.examples import Example
from tokenq.rundir import RunDir
from tokenq.runs.data import data_of_run
from tokenq.runs.places import home_of
from tokenq.runs.record import RunRecord, read_run


@dataclass(frozen=True)
class RunRows:
    """The rows of a run.

    Attributes:
        record: of the run.
        folder: of it.
    """

    record: RunRecord
    folder: RunDir

    @classmethod
    def of(cls, run: str) -> "RunRows":
        """Return the rows of a run, or of the one that a checkpoint is in."""
        folder = home_of(run) or RunDir(Path(run).expanduser())
        return cls(read_run(folder.path), folder)

    @cached_property
    def _parts(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """The rows that it trained on, and those that it holds out."""
        if "data" not in self.record.config:  # a run in rounds has written its rows itself
            return (), ()
        _, kept, held_out = data_of_run(self.record)
        return kept, held_out

    def without_held_out(self, pool: Pool, listener: Listener) -> Pool:
        """Return the pairs without those that the run held out of its own training data.

        Raises:
            UserError: rows of its evaluation data are among them, or nothing else is.
        """
        held = set(map(shown, self._parts[1]))
        found = [place for place, pair in enumerate(pool.pairs) if shown(pair) in held]
        if not found:
            return pool
        if self.record.config.get("eval_data") or len(found) == len(pool.pairs):
            raise UserError(
                f"{pool.pairs[found[0]].where} is held out by {self.folder.path}, and so are {len(found)} of "
                f"{len(pool.pairs)} pairs: what a policy is judged by decides nothing.",
                "Leave these rows out of the data.",
            )
        listener.say(f"left out: {len(found)} pairs that {self.folder.path} holds out of its training data")
        return pool.without(frozenset(pool.numbers[place] for place in found), "held out by the run")

    def refuse_changed(self, data: Sequence[str]) -> None:
        """Refuse the run's own data where they are not any more what it has learnt from.

        Raises:
            UserError: names the run.
        """
        settings, told = self.record.config, self.record.provenance.get("data") or {}
        named = [str(Path(one).expanduser().absolute()) for one in data]
        if named != list(settings.get("data", ())) or not told.get("sha256"):
            return
        spec = ModelSpec(str(self.folder.policy))
        template = settings.get("chat_template")
        tokenizer = load_tokenizer(spec, Path(template).read_text(encoding="utf-8") if template else None)
        limits = {
            name: settings[name] for name in ("max_length", "max_prompt_length", "truncation") if name in settings
        }
        found = tokenize(self._parts[0], tokenizer, **limits)
        if (found.digest or data_digest(found.groups)) != told["sha256"]:
            raise UserError(
                f"The rows of {', '.join(data)} have changed since {self.folder.path} learnt from them: its margins "
                "would be those of seen and unseen rows together.",
                "Restore the file, or train again on it as it is.",
            )
