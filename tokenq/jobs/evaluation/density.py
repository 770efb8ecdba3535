"""`tokenq eval density`: chains of summaries, read by models or not, or the density of stored answers."""

from dataclasses import asdict, replace

from tokenq.evaluation.config import DensityConfig
from tokenq.evaluation.density.answers import density_of_answers
from tokenq.evaluation.density.chains import chains_of_examples, chains_of_traces
from tokenq.evaluation.density.task import density
from tokenq.evaluation.task_generation import same_prompts
from tokenq.jobs.density.entities import entities_of
from tokenq.jobs.evaluated import Evaluated
from tokenq.jobs.evaluation.answers import results_of
from tokenq.jobs.evaluation.given import Given
from tokenq.jobs.evaluation.traces import TraceFile, evaluated, scored_of
from tokenq.jobs.inputs import examples_of
from tokenq.listener import Listener
from tokenq.stats.bootstrap import Resampling
from tokenq.stats.outcome import Outcome


def judge_density(config: DensityConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return how dense chains or answers are, and where models are named, what their rewards of chains go by."""
    entities, named = entities_of(config.entities), config.entities
    if config.results:
        systems = results_of(config.results, given.results)
        same_prompts(systems)
        table, numbers = density_of_answers(systems, entities, named, how)
        return Evaluated(Outcome("density", numbers, [table]), "tokenq eval density", asdict(config), {})
    if config.traces is None and not config.has_models():
        data = given.data.get("data", config.data)
        found = examples_of(data, config.columns, config.bad_rows, config.style, config.seed)
        outcome = density(chains_of_examples(found.examples, entities), entities, named, config.same_length, how)
        return Evaluated(outcome, "tokenq eval density", asdict(config), {})
    scored = scored_of(config, given, listener)
    bare = replace(scored.traces, alternatives=False) if isinstance(scored.traces, TraceFile) else scored.traces
    traces = list(bare)
    for trace in traces:
        trace.totals.given("logp")  # a reward model alone says nothing of tokens here
    outcome = density(chains_of_traces(traces, entities), entities, named, config.same_length, how)
    return evaluated(config, outcome.costing(scored.cost), traces, scored.shown)
