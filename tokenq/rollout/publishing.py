"""How new weights reach a writer behind a server, in one table. To add a way, write a function and a row.

Each returns the name under which the server then has the weights, and may be done twice. None is believed: what the
server answers afterwards says which weights it has (`tokenq.rollout.writer_checks.taken`).
"""

import contextlib
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from tokenq.errors import UserError
from tokenq.rollout.remote import Server, served_models

SYNC_TIMEOUT = 1800.0
"""Seconds that a command may take."""


class Publication(NamedTuple):
    """Weights on their way to a server.

    Attributes:
        server: where to.
        folder: where they are, on a disk that the server sees too.
        version: updates that they have seen.
        name: of the run, which no other run on that server has.
        command: the user's own, "" for none.
    """

    server: Server
    folder: Path
    version: int
    name: str
    command: str = ""


def lora(asked: Publication) -> str:
    """Load an adapter under a name that nothing had before, so that no cache of the server knows it."""
    server, name = asked.server, f"{asked.name}-v{asked.version:06d}-{secrets.token_hex(3)}"
    earlier = [one for one in served_models(server) if one.startswith(f"{asked.name}-v")]
    try:
        server.send("/load_lora_adapter", [{"lora_name": name, "lora_path": str(asked.folder)}], text=True)
    except UserError:
        if name not in served_models(server):  # else it was loaded by an attempt whose answer was lost
            raise
    for one in earlier:
        with contextlib.suppress(UserError):  # it makes room, and is not needed
            server.send("/unload_lora_adapter", [{"lora_name": one}], text=True)
    return name


def reload(asked: Publication) -> str:
    """Have vLLM read a folder, with no request under way, and forget what the weights before have made of prompts."""
    server, version = asked.server, str(asked.version)

    def post(path: str, body: Mapping[str, object]) -> None:
        server.send(f"{server.root}{path}", [body], text=True)

    post("/pause?mode=keep", {})
    try:
        post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(asked.folder)}})
        post("/reset_prefix_cache", {})
        with contextlib.suppress(UserError):  # a stamp for readers, which not every release has
            post("/update_weight_version", {"new_version": version})
    finally:
        post("/resume", {})
    return server.endpoint.model


def command(asked: Publication) -> str:
    """Run a command of the user's, word by word and without a shell, and wait until it has done its work.

    Raises:
        UserError: there is no such program, it fails, or it takes too long.
    """
    told = {"{path}": str(asked.folder), "{version}": str(asked.version)}
    words = shlex.split(asked.command)
    for name, value in told.items():
        words = [word.replace(name, value) for word in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SYNC_TIMEOUT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise UserError(f"--sync-command was not done after {SYNC_TIMEOUT:g} s: {words[0]}.", _ALONE) from None
    except OSError as problem:
        raise UserError(f"--sync-command cannot be run: {problem}.", _ALONE) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:] or "it said nothing"
        raise UserError(f"--sync-command ended with status {done.returncode}: {said}", _ALONE)
    return asked.server.endpoint.model


_ALONE = "Try it by hand with a folder and a number in place of {path} and {version}."


class Publisher(NamedTuple):
    """A row of the table.

    Attributes:
        publish: brings weights to the server.
        form: how an adapter is written for it.
        needs: how the server must have been started.
    """

    publish: Callable[[Publication], str]
    form: Literal["as_trained", "merged"]
    needs: str


PUBLISHERS: Mapping[str, Publisher] = {
    "lora": Publisher(
        lora, "as_trained", "Start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and --max-lora-rank."
    ),
    "reload": Publisher(
        reload, "merged", "Start vLLM with VLLM_SERVER_DEV_MODE=1, on a disk that holds the folder of the run."
    ),
    "command": Publisher(command, "as_trained", _ALONE),
}
"""Every way in which weights reach a writer, by the name that --sync has for it."""


def published(by: str, asked: Publication) -> str:
    """Bring weights to a server, and return the name under which it has them.

    Args:
        by: a key of `PUBLISHERS`.
        asked: which weights, and where to.

    Raises:
        UserError: it does not take them; says how it must be started.
    """
    row = PUBLISHERS[by]
    try:
        return row.publish(asked)
    except UserError as problem:
        hint = problem.hint if "does not answer" in problem.message else row.needs
        raise UserError(
            f"New weights (version {asked.version}) did not reach the writer. {problem.message}", hint
        ) from None
