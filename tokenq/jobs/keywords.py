"""The keywords of jobs: those that a job looks at itself, and one for each further setting of its command."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import wraps
from inspect import Parameter
from typing import Any, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
Result = TypeVar("Result")


def settings_of(config: type[Any]) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Return a decorator that gives a job a keyword for each setting of a configuration, with its type and default.

    The job takes them as `**settings`, all of them, whatever the caller has given; `help` and notebooks show them one
    by one.

    Args:
        config: the dataclass that is the command's configuration too.
    """
    kinds = get_type_hints(config)

    def decorated(job: Callable[P, Result]) -> Callable[P, Result]:
        own = [one for one in inspect.signature(job).parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        named = {one.name for one in own}
        shared = [
            Parameter(one.name, Parameter.KEYWORD_ONLY, default=_default(one), annotation=kinds[one.name])
            for one in fields(config)
            if one.name not in named
        ]
        signature = inspect.Signature([*own, *shared], return_annotation=job.__annotations__["return"])

        @wraps(job)
        def called(*arguments: P.args, **keywords: P.kwargs) -> Result:
            bound = signature.bind(*arguments, **keywords)
            bound.apply_defaults()
            run: Any = job
            result: Result = run(**bound.arguments)
            return result

        called.__dict__["__signature__"] = signature
        return called

    return decorated


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
