"""The settings of a writer behind a server, and which of them go together. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from tokenq.errors import UserError

LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class WriterAddress:
    """Who writes."""

    writer: str = "local"
    """What generates responses: local, the policy in this process, or the address of an OpenAI-compatible server that
    takes and gives token ids (vLLM): --writer http://localhost:8000. What the reference writes is written here."""
    writer_model: str | None = None
    """Name of the model at --writer. Default: the only one that is served there."""


@dataclass(frozen=True, kw_only=True)
class WriterOptions(WriterAddress):
    """Who writes the responses of rounds, and how weights reach it."""

    sync: Literal["auto", "lora", "reload", "command"] = "auto"
    """How new weights reach --writer before each round: as an adapter under a new name, from a folder that vLLM reads
    again, or by --sync-command. auto: by that command, else lora where an adapter is trained, else reload."""
    sync_command: str | None = None
    """Program that brings a folder of weights to --writer, run without a shell: 'push.sh {path} {version}'."""
    max_staleness: int = 0
    """Updates that a response of --writer may be behind the policy; older ones are thrown away and counted."""


def synced_by(config: WriterOptions, *, adapts: bool) -> str:
    """Return the key of the publisher that brings weights to the writer.

    Args:
        config: the settings.
        adapts: whether an adapter is trained.
    """
    if config.sync != "auto":
        return config.sync
    if config.sync_command is not None:
        return "command"
    return "lora" if adapts else "reload"


def refuse_address(config: WriterAddress) -> None:
    """Refuse a writer that is neither here nor at an address.

    Raises:
        UserError: names the flag.
    """
    if config.writer != LOCAL and not config.writer.startswith(("http://", "https://")):
        raise UserError(
            f"--writer {config.writer!r} is no writer.", "Give local, or an address: --writer http://localhost:8000."
        )
    if config.writer == LOCAL and config.writer_model is not None:
        raise _nobody_there("writer_model")


def _nobody_there(name: str) -> UserError:
    flag = f"--{name.replace('_', '-')}"
    return UserError(f"{flag} is given, and the policy in this process writes.", "Name a server: --writer URL.")


def refuse_writer(config: WriterOptions, *, adapts: bool) -> None:
    """Refuse settings of a writer that cannot be meant together.

    Args:
        config: the settings.
        adapts: whether an adapter is trained.

    Raises:
        UserError: names the flags.
    """
    if config.writer == LOCAL:
        given = {"writer_model": config.writer_model, "sync_command": config.sync_command}
        named = [name for name, value in given.items() if value is not None]
        named += ["sync"] * (config.sync != "auto") + ["max_staleness"] * (config.max_staleness > 0)
        if named:
            raise _nobody_there(named[0])
        return
    refuse_address(config)
    by, command = synced_by(config, adapts=adapts), config.sync_command
    if by == "command" and (command is None or "{path}" not in command):
        hint = "Name a program that takes the folder: --sync-command 'push {path} {version}'."
        raise UserError("--sync command needs a --sync-command with {path} in it.", hint)
    if by != "command" and command is not None:
        raise UserError(f"--sync-command is given, and --sync is {by}.", "Leave --sync out.")
    if by == "lora" and not adapts:
        raise UserError("--sync lora: no adapter is trained.", "Give --lora-rank, or --sync reload.")
