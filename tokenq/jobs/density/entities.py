"""The entity back end that a setting names."""

from tokenq.density.backends import Entities, checked, is_file, named
from tokenq.judge.function import load_callable


def entities_of(name: str) -> Entities:
    """Return what finds entities: rules, spacy:MODEL, or FILE.py:FUNCTION.

    Raises:
        UserError: there is none of this name, or it cannot be loaded.
    """
    return checked(load_callable(name, "--entities "), name) if is_file(name) else named(name)
