"""What the loaded models can answer: requests that they cannot are refused before they wait."""

from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.models.limits import least_context, refuse_tokens
from tokenq.search.branches import Limits
from tokenq.server.engine.request import Generation


def most_tokens(asked: Generation, reader: Reader) -> int:
    """Return the most tokens of a choice: as many as were asked for, or as the context holds.

    Raises:
        UserError: the models cannot answer what is asked for.
    """
    pair, prompt = reader.pair, asked.prompt
    if pair is None:
        raise UserError("A reward model writes nothing.", "Serve a policy.")
    if asked.rewards and pair.other_tokenizer is not None:
        raise UserError("Policy and reference have other tokens: no rewards while they write.", "Ask for a trace.")
    if not prompt:
        raise UserError("The prompt has no tokens.", "Begin with the BOS token.")
    if asked.n < 1 or asked.top_logprobs < 0 or asked.max_new_tokens < 0:
        raise UserError(
            f"{asked.n} choices of {asked.max_new_tokens} tokens cannot be written.", "Ask for one or more."
        )
    asked.sampling  # noqa: B018  (it refuses what leaves nothing to draw)
    for what, tokens in (("The prompt", prompt), ("The bias", tuple(asked.logit_bias))):
        refuse_tokens(reader.limits[0], tokens, what)
        if min(tokens, default=0) < 0:
            raise UserError(f"{what} has token {min(tokens)}.", "Ids of tokens are not negative.")
    context = least_context(model.lm for model in (pair.models.policy, pair.models.reference) if model is not None)
    if asked.max_new_tokens == 0:
        if not asked.prompt_logps:
            raise UserError("Nothing is asked for.", "Ask for a token, or for the log-probs of the prompt.")
        if context is not None and len(prompt) > context:
            raise UserError(f"The prompt has {len(prompt)} tokens, and the model reads {context}.", "Shorten it.")
        return 0
    return Limits(tuple(asked.eos), asked.max_new_tokens, context=context).behind(prompt).max_new_tokens
