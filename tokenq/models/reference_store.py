"""Token-level reference log-probs on disk, computed once and reused by every job.

A store is a folder with one sub-folder per reference model (its identity: configuration, weights, compute type). In it
lie shards, each one safetensors file with the log-probs of some responses, read through a memory map. A response is
found by a hash of exactly what its log-probs depend on besides the model: the token ids of its prompt, its own token
ids and which of them count. Tokenizer, template and truncation act only through those ids, so nothing else is in the
key: another β, loss or output folder finds every value, and a changed option that changes ids finds none.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import Actions, TokenScorer
from tokenq.errors import UserError
from tokenq.models.identity import ModelIdentity
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.lazy_groups import each

VERSION = 1
"""Version of the key and of the file format; a change makes old entries invisible."""

FLUSH_ROWS = 4096
"""Responses in one shard: what a kill can cost at most."""

KEY_BYTES = 16


def response_key(prompt_ids: NDArray[np.int32], response: TokenResponse) -> bytes:
    """Return 16 bytes that identify a response's log-probs under a given model."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in (prompt_ids.astype("<i4"), response.ids.astype("<i4"), response.mask.astype("u1")):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.tobytes())
    return digest.digest()


class ReferenceStore:
    """Log-probs of one reference model, by response.

    Args:
        root: the store's folder, shared by all models; None keeps everything in memory.
        identity: the reference model.
    """

    def __init__(self, root: Path | None, identity: ModelIdentity) -> None:
        name = hashlib.sha256(f"{VERSION} {identity.weights} {identity.dtype}".encode()).hexdigest()[:32]
        self.folder = None if root is None else root / name
        self._values: dict[bytes, NDArray[np.float32]] = {}
        self._seen: set[str] = set()
        if self.folder is not None:
            _make_folder(self.folder, identity)
            self.refresh()

    def __contains__(self, key: bytes) -> bool:
        """Return whether the log-probs of this response are known."""
        return key in self._values

    def __getitem__(self, key: bytes) -> NDArray[np.float32]:
        """Return the log-probs of a response's own tokens, in order."""
        return self._values[key]

    def __len__(self) -> int:
        """Return the number of responses."""
        return len(self._values)

    def add(self, rows: dict[bytes, NDArray[np.float32]]) -> None:
        """Store the log-probs of some responses as one shard, atomically; what is known stays as it is.

        Beside other responses the same one is computed to other last bits: whoever has used the first value finds it.
        """
        rows = {key: value for key, value in rows.items() if key not in self}
        self._values.update(rows)
        if self.folder is None or not rows:
            return
        shard: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, KEY_BYTES),
            "lengths": np.array([len(value) for value in rows.values()], dtype=np.int64),
            "logps": np.concatenate(list(rows.values())),
        }
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"  # read in the order in which they were written
        aside = self.folder / f".{name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # `tokenq cache --clear` may have come by
            save_file(shard, aside)
            os.replace(aside, self.folder / f"{name}.safetensors")
            self._seen.add(f"{name}.safetensors")
        except (OSError, SafetensorError) as problem:
            aside.unlink(missing_ok=True)
            raise UserError(
                f"The reference store {self.folder} cannot be written: {problem}",
                "Free some space, name another folder with --reference-store, or pass --reference-store off.",
            ) from None

    def fill(
        self,
        groups: Sequence[TokenGroup],
        scorer: TokenScorer,
        budget: int,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> int:
        """Compute the missing log-probs of `groups` with the reference, and return for how many responses.

        Args:
            groups: the data.
            scorer: the reference model.
            budget: most tokens in one forward.
            device: where the scorer is.
            progress: told (done, total) responses after every forward.

        Raises:
            UserError: the reference gives no number for a token; nothing of that forward is kept.
        """
        missing = [g for g in groups if any(response_key(g.prompt_ids, r) not in self for r in g.responses)]
        total = sum(len(group.responses) for group in missing)
        fresh: dict[bytes, NDArray[np.float32]] = {}
        done = 0
        for places in plan_pass([group.n_tokens for group in missing], budget):
            batch_groups = [missing[i] for i in places]
            batch = pack(batch_groups)
            with torch.no_grad():
                flat = scorer(batch.to(device)).float().cpu().numpy()
            _check_finite(flat, batch.actions)
            keys = [response_key(group.prompt_ids, r) for group in batch_groups for r in group.responses]
            counts = np.bincount(batch.actions.responses.numpy(), minlength=batch.actions.shape[0])
            fresh.update(zip(keys, np.split(flat, np.cumsum(counts)[:-1]), strict=True))
            done += len(keys)
            progress(done, total)
            if len(fresh) >= FLUSH_ROWS:
                self.add(fresh)
                fresh = {}
        self.add(fresh)
        return total

    def with_logps(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        """Return the groups with the reference's log-probs as token column `ref_logps`, 0 where the policy wrote none.

        Log-probs that are all of a response stay on disk behind their memory map.
        """

        def column(group: TokenGroup, response: TokenResponse) -> TokenResponse:
            logps = self[response_key(group.prompt_ids, response)]
            if len(logps) < len(response.ids):
                every = np.zeros(len(response.ids), np.float32)
                every[response.mask] = logps
                logps = every
            return response.with_token_column("ref_logps", logps)

        return each(groups, lambda group: group.map(partial(column, group)))

    def refresh(self) -> None:
        """Read shards that other processes have written since; of two values for a response the first one counts."""
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder is not None else []:
            if path.name not in self._seen:
                self._values = _read_shard(path) | self._values
                self._seen.add(path.name)


def _check_finite(flat: NDArray[np.float32], actions: Actions) -> None:
    """Refuse to store log-probs that are not finite."""
    bad = np.flatnonzero(~np.isfinite(flat))
    if len(bad):
        response = int(actions.responses[bad[0]])
        raise UserError(
            f"The reference gives a log-prob of {flat[bad[0]]} to response {actions.members[response][1] + 1} of "
            f"{actions.origins[response]}.",
            "Its weights are broken, or it overflows: compute in float32 or bfloat16.",
        )


def _make_folder(folder: Path, identity: ModelIdentity) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # of a process that was killed: no living one takes a day to write a shard
            with contextlib.suppress(FileNotFoundError):  # renamed by its writer just now
                if time.time() - left.stat().st_mtime > 86_400:
                    left.unlink()
        if (folder / "model.json").exists():
            with contextlib.suppress(OSError):  # somebody else's, or the disk is for reading alone
                os.utime(folder / "model.json")  # when it was last used
        else:
            # Other processes may be doing the same: each writes aside under a name of its own.
            aside = folder / f".{uuid.uuid4().hex}.tmp"
            aside.write_text(json.dumps({"version": VERSION, **identity.to_dict()}, indent=2) + "\n", encoding="utf-8")
            os.replace(aside, folder / "model.json")
    except OSError as problem:
        raise UserError(
            f"The reference store {folder} cannot be opened: {problem}", "Name another with --reference-store."
        ) from None


def _read_shard(path: Path) -> dict[bytes, NDArray[np.float32]]:
    """Return the shard's responses; their log-probs stay on disk behind a memory map until they are used."""
    try:
        with safe_open(path, framework="numpy") as shard:  # first of all: it checks the header
            keys, lengths = shard.get_tensor("keys"), shard.get_tensor("lengths")
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        start, stop = header["logps"]["data_offsets"]
        logps = np.memmap(path, dtype="<f4", mode="r", offset=8 + header_bytes + start, shape=((stop - start) // 4,))
    except (SafetensorError, OSError, ValueError, KeyError):
        raise UserError(f"{path} is damaged.", "Delete that file; its values are computed again.") from None
    if lengths.sum() != len(logps) or len(keys) != len(lengths):
        raise UserError(f"{path} is damaged.", "Delete that file; its values are computed again.")
    return {key.tobytes(): v for key, v in zip(keys, np.split(logps, np.cumsum(lengths)[:-1]), strict=True)}
