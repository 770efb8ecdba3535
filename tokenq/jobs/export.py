"""`tokenq.export`: a policy of a run, as a folder for others, with a card that is true, and on the hub."""

import shutil
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, get_token

from tokenq.diffusion.open import is_image_model
from tokenq.errors import UserError, reason
from tokenq.files import folder_aside, read_json, write_json, write_text
from tokenq.jobs.drawing.run import image_model_in
from tokenq.jobs.host import untouched
from tokenq.jobs.outputs import refuse_foreign
from tokenq.jobs.training.card import HUB_ID, UNKNOWN, Card, Kind, hub_id
from tokenq.listener import SILENCE, Listener
from tokenq.models.checkpoint import licence_of
from tokenq.models.export import write_converted
from tokenq.models.load import ModelSpec
from tokenq.redaction import redact
from tokenq.rundir import ACCOUNT, RunDir
from tokenq.runs.places import best_of, checkpoint_of, home_of, is_reward_model
from tokenq.training.checkpoint import STATE
from tokenq.training.recorded import evaluations_of, read_metrics, read_provenance

MADE_BY = "tokenq export"

RECORD = "tokenq_export.json"
"""The file by which the command knows a folder of its own; it is not uploaded."""

_PACKAGES = ("tokenq", "torch", "transformers", "peft")


def export(  # noqa: PLR0913 (one keyword a setting)
    run: str | PathLike[str],
    output: str | PathLike[str],
    *,
    step: int | None = None,
    best: bool = False,
    merge: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    push_to_hub: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    listener: Listener = SILENCE,
) -> Path:
    """Write the policy, or reward model, of a run as a folder for others, and return that.

    Args:
        run: a run, its folder, or that of one of its checkpoints.
        output: folder to write.
        step: of a checkpoint; None for the end of the run.
        best: take the checkpoint of the best evaluation.
        merge: merge an adapter into its base.
        dtype: type of the weights; "auto" leaves them as they are, those of a merge as the base is stored.
        push_to_hub: upload it under this id of the hub.
        trust_remote_code: run code that a base brings along.
        overwrite: replace a folder that this command did not write.
        listener: told what is done.

    Raises:
        UserError: there is no such run, step or adapter; nothing was written then. Or the hub refuses the folder.
    """
    if push_to_hub is not None:
        _check_hub(push_to_hub)
    home, source, step = _chosen(Path(run).expanduser(), step, best, listener)
    if merge and not _is_adapter(source):
        raise UserError(f"{source} holds no adapter that could be merged.", "Leave out --merge.")
    image = image_model_in(home.path if step is None else source)
    if image is not None and dtype != "auto":
        hint = "Leave it out: diffusers converts an image model as it loads (torch_dtype=torch.bfloat16)."
        raise UserError(f"--dtype {dtype} does not go with an image model.", hint)
    target = Path(output).expanduser()
    _check_target(target, overwrite=overwrite)
    beside = ""
    with untouched():
        name = push_to_hub or target.name
        card = _card(home, source, step, name, merge=merge)
        spec = ModelSpec(str(source), dtype, "cpu", trust_remote_code=trust_remote_code)
        with folder_aside(target) as aside:
            _fill(aside, source, spec, card, merge=merge)
            if image is not None and image != source:
                drawing = _card(home, image, step, f"{name}/{image.name}", merge=False)
                _fill(aside / image.name, image, spec, drawing, merge=False)
                beside = f", the image model behind it in {target / image.name}"
            record = {"made_by": MADE_BY, "run": home.path.name, "step": step, "versions": card.versions}
            write_json(aside / RECORD, record)
    listener.say(f"exported: the {card.kind} after {card.facts['steps']} steps, in {target}{beside}")
    if push_to_hub is not None:
        _push(target, push_to_hub)
        listener.say(f"on the hub: {constants.ENDPOINT}/{push_to_hub}")
    return target


def _chosen(folder: Path, step: int | None, best: bool, listener: Listener) -> tuple[RunDir, Path, int | None]:
    """Return the run, the folder of what is exported, and the step of that; None for the end of the run."""
    home = home_of(folder)
    if home is not None and (step is not None or best):
        raise UserError(f"{folder} is a checkpoint already.", "Give the run, or leave out --step and --best.")
    if step is not None and best:
        raise UserError("--step and --best are both given.", "Give one of them.")
    if home is not None:
        return home, folder, int(folder.absolute().name.removeprefix("step-"))
    run = RunDir(folder)
    if not run.holds_run():
        raise UserError(f"{folder} holds no run.", "Give the --output folder of a tokenq train.")
    if best:
        step = best_of(run, listener.say)
    if step is not None:
        return run, checkpoint_of(run, step), step
    for place in (run.policy, run.reward_model):
        if place.is_dir():
            return run, place, None
    steps = ", ".join(map(str, run.steps())) or "none yet"
    raise UserError(f"The run in {folder} has not ended.", f"Export a checkpoint with --step N: {steps}.")


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file.", "Name a folder.")
    if target.is_dir() and any(target.iterdir()) and not overwrite and not (target / RECORD).exists():
        raise UserError(
            f"{target} is there already, and {MADE_BY} did not write it.", "Name another folder, or add --overwrite."
        )
    refuse_foreign(target / RECORD, MADE_BY, overwrite=overwrite)


def _card(home: RunDir, source: Path, step: int | None, name: str, *, merge: bool) -> Card:
    """Return the card of what is exported, by what the run recorded."""
    recorded, lines = read_provenance(home), read_metrics(home)
    config, evaluations = recorded["config"], evaluations_of(lines)
    done = max((line["step"] for line in lines), default=0) if step is None else step
    kind: Kind = "adapter" if _is_adapter(source) and not merge else "policy"
    base = config["model"]
    if is_image_model(source):
        kind, base = "image model", config.get("image_model") or base
    beta = recorded.get("beta")
    facts = {
        "steps": done,
        "batch size": config["batch_size"],
        "learning rate": config["learning_rate"],
        **({} if beta is None else {"beta": beta}),
        **(config.get("loss_options") or {}),
        **({"seed": recorded["seed"]} if "seed" in recorded else {}),
    }
    return Card(
        "reward model" if is_reward_model(source) else kind,
        home.path.name if step is None else f"{home.path.name}, step {step}",
        name,
        str(base),
        str(config["loss"]),
        config["data"],
        facts,
        {name: value for name, value in evaluations.get(done, {}).items() if value is not None},
        {name: recorded["versions"][name] for name in _PACKAGES if name in recorded.get("versions", {})},
        licence_of(hub_id(str(base)) or str(base)) or UNKNOWN,
    )


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _fill(folder: Path, source: Path, spec: ModelSpec, card: Card, *, merge: bool) -> None:
    """Write the files of what is exported: converted weights, and the rest as it was.

    An image model has its parts in folders of their own.
    """
    if card.kind == "image model":
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(STATE, ACCOUNT), dirs_exist_ok=True)
        write_text(folder / "README.md", card.text())
        return
    converts = merge or spec.dtype != "auto"
    if converts:
        write_converted(spec, folder, rewards=card.kind == "reward model", merge=merge)
    for file in sorted(source.iterdir()):
        weights = converts and (".safetensors" in file.name or (merge and file.name.startswith("adapter_")))
        there = weights or (folder / file.name).exists() or file.name in (ACCOUNT, "README.md")
        if file.is_file() and not there:
            shutil.copyfile(file, folder / file.name)
    if card.kind == "adapter":
        _name_base(folder / "adapter_config.json")
    write_text(folder / "README.md", card.text())


def _name_base(file: Path) -> None:
    """Name the base of an adapter as the hub does, where it was fetched from there."""
    config: dict[str, Any] = read_json(file)
    named = hub_id(str(config.get("base_model_name_or_path")))
    if named is not None:
        write_json(file, {**config, "base_model_name_or_path": named})


def _check_hub(name: str) -> None:
    """Refuse what the hub would refuse, before anything is done.

    Raises:
        UserError: the name can be none, or nobody is logged in.
    """
    if HUB_ID.fullmatch(name) is None:
        raise UserError(f"--push-to-hub {name}: that is no id of the hub.", "Give one such as my-name/my-model.")
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push-to-hub needs the hub, and HF_HUB_OFFLINE is set.", "Unset it, or export to a folder.")
    if get_token() is None:
        raise UserError("--push-to-hub needs a token of the hub.", "Log in (hf auth login), or set HF_TOKEN.")


def _push(folder: Path, name: str) -> None:
    """Upload a folder.

    Raises:
        UserError: the hub cannot be reached, or refuses it.
    """
    try:
        api = HfApi()
        made = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, ignore_patterns=[RECORD])
    except Exception as problem:  # of the hub's client, and of its client of HTTP
        raise UserError(
            f"{name} could not be uploaded: {redact(reason(problem))}",
            f"What was to be uploaded is in {folder}; the same command tries again.",
        ) from None
