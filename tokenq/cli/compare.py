"""`tokenq compare RUN RUN …`: training runs on the same data from the same model, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenq.cli.outputs import claims
from tokenq.evaluate.eval_config import Evaluation
from tokenq.ranges import check_ranges


@dataclass(frozen=True)
class CompareConfig(Evaluation):
    """Compare finished training runs that share model, data and held-out pairs, by what they recorded."""

    runs: Sequence[str] = ()
    """Folders of two runs or more; those of one configuration under several seeds become one row."""
    baseline: str | None = None
    """Run that differences are taken from. Default: the first."""


SECTIONS = {"output": "what comes out", "runs": "what to compare"}

SPELT_ELSEWHERE = {"run": "runs", "page": "html", "json": "output", "reference": "baseline"}


@claims("tokenq compare")
def run(config: CompareConfig) -> int:
    """Compare what `config` names, show it, write what is asked for, and return 0.

    Raises:
        UserError: a folder holds no finished and evaluated run, or two runs do not share what they must.
    """
    from tokenq.cli.evaluating import finish, resampling
    from tokenq.evaluate.compared_runs import find_setup, read_runs, setups_of
    from tokenq.evaluate.comparison import compare
    from tokenq.evaluate.comparison_outcome import outcome_of

    check_ranges(config)
    runs = read_runs(config.runs)
    setups = setups_of(runs)
    found = compare(setups, find_setup(setups, config.baseline), resampling(config))
    recorded = found.baseline.runs[0].record.provenance
    identities = {name: recorded.get(name) for name in ("model", "reference", "data", "eval_data")}
    return finish(config, outcome_of(found), identities=identities, title="tokenq compare")
