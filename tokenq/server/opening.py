"""The models that a command names for a server, opened: policy, reference, reward model, small pairs that may steer."""

from collections.abc import Callable
from functools import partial

from tokenq.jobs.host import untouched
from tokenq.jobs.load import load
from tokenq.jobs.reader import Reader
from tokenq.jobs.searcher import Terms
from tokenq.listener import Listener
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.load import same_dtype
from tokenq.models.open import open_model
from tokenq.models.run_models import model_spec
from tokenq.models.tokenizer import check_tokenizers, open_tokenizer
from tokenq.server.config import ServeConfig, alphas_of, pairs_of


def open_session(config: ServeConfig, listener: Listener) -> Reader:
    """Return the pair of a configuration.

    Args:
        config: names it.
        listener: told what could not be done as asked.

    Raises:
        UserError: a model is missing, or there is nothing to read the policy against.
    """
    return load(
        config.run or config.policy,
        config.reference,
        reward_model=config.reward_model,
        reward_weights=config.reward_weights,
        listener=listener,
        beta=config.beta,
        dtype=config.dtype,
        device=config.device,
        attention=config.attention,
        trust_remote_code=config.trust_remote_code,
        base=config.base,
    )


def open_proxies(config: ServeConfig, session: Reader, say: Callable[[str], None]) -> dict[str, Terms]:
    """Return the small pairs of a configuration by their names.

    Args:
        config: names them.
        session: the policy that they may steer.
        say: told what could not be done as asked.

    Raises:
        UserError: a model is missing, or has other tokens than the policy.
    """
    with untouched():
        read = partial(_opened, config, session, say)
        return {
            name: tuple(
                (read(tuned), read(untuned), alpha)
                for (tuned, untuned), alpha in zip(pairs, alphas_of(config)[name], strict=True)
            )
            for name, pairs in pairs_of(config).items()
        }


def _opened(config: ServeConfig, session: Reader, say: Callable[[str], None], path: str) -> PackedLM:
    spec = model_spec(config, path)
    check_tokenizers(session.tokenizer, open_tokenizer(spec))
    pair = session.pair
    assert pair is not None  # a server has one
    return open_model(same_dtype(pair.models.policy.model, spec), config.attention, 1024, say).lm
