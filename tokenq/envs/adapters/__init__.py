"""Adapters: environments of other packages, of the user's own files, and of models that are asked."""

import importlib
from typing import Any

from tokenq.errors import UserError


def installed(package: str, environment: str) -> Any:
    """Return a package that comes with the extra "agents".

    Args:
        package: its name for import.
        environment: that needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as problem:
        raise UserError(
            f"The environment {environment} needs the package {package}.", "pip install 'tokenq[agents]'"
        ) from problem
