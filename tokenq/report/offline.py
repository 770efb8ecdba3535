"""Pages that open from disk and ask nobody for anything: one file with script, style and data.

Texts of models and data are hostile until escaped. On a page they travel as JSON in a script element that no browser
runs, and are put on screen as text; a content security policy allows the page's own script and style and nothing else.
"""

import base64
import functools
import hashlib
import json
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import tokenq

_PACKED = 3
"""Level of packing: beyond it a page takes much longer to write and is hardly smaller."""

GENERATOR = '<meta name="generator" content="{} '
"""By which a page says what command made it; the version follows."""

_MAKERS = {"page": "tokenq score", "search": "tokenq search", "doctor": "tokenq doctor", "figures": "tokenq demo"}


def offline_page(
    template: str,
    scripts: Sequence[str],
    styles: Sequence[str],
    title: str,
    islands: Mapping[str, Any],
    record: Mapping[str, Any],
    **shown: Any,
) -> str:
    """Return a self-contained HTML page; see `offline_parts`."""
    return "".join(offline_parts(template, scripts, styles, title, islands, record, **shown))


def offline_parts(
    template: str,
    scripts: Sequence[str],
    styles: Sequence[str],
    title: str,
    islands: Mapping[str, Any],
    record: Mapping[str, Any],
    **shown: Any,
) -> Iterator[str]:
    """Return a self-contained HTML page, piece by piece: a large one is never there twice.

    Args:
        template: its template; gets title, origin, version, policy, script, style and islands.
        scripts: the parts of its script, in the order in which they are put together.
        styles: the parts of its style.
        title: of the page.
        islands: data by the name under which the script finds it.
        record: where its numbers come from, as provenance has it; empty where nobody knows. `made_by` is the command,
            where the template does not say it.
        shown: what else the template shows, escaped.
    """
    made_by = record.get("made_by") or _MAKERS.get(template.partition(".")[0], "tokenq")
    script = '"use strict";\n{\n' + "\n".join(map(static_text, scripts)) + "\n}\n" if scripts else ""
    style = "\n".join(map(static_text, styles))
    return (
        templates()
        .get_template(template)
        .generate(
            title=writable(title),
            generator=f"{made_by} {tokenq.__version__}",
            origin=[(name, writable(text)) for name, text in origin(record)],
            version=tokenq.__version__,
            policy=_content_policy(script, style),
            script=Markup(script),
            style=Markup(style),
            islands=[(name, json_island(value)) for name, value in islands.items()],
            **shown,
        )
    )


@functools.cache
def templates() -> Environment:
    """Return the templates of this package, each compiled once a process; whatever they show is escaped."""
    loader = PackageLoader("tokenq.report", "static")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def static_text(name: str) -> str:
    """Return a part of a script or a style."""
    return (resources.files("tokenq.report") / "static" / name).read_text(encoding="utf-8")


def packed_island(value: Any) -> str:
    """Return JSON that is packed (zlib) and written in letters (base64): a script unpacks it when it is looked at."""
    return base64.b64encode(zlib.compress(_json(value).encode(), _PACKED)).decode("ascii")


def _json(value: Any, escaped: str = "\ud800-\udfff") -> str:
    """Return JSON in which some characters are escaped: halves of surrogate pairs, which UTF-8 cannot hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub(f"[{escaped}]", lambda found: f"\\u{ord(found[0]):04x}", text)


def json_island(value: Any) -> Markup:
    """Return JSON that means the same inside a script element and cannot end it, nor begin a comment there."""
    return Markup(_json(value, "<>&\u2028\u2029\ud800-\udfff"))


def writable(text: str) -> str:
    """Return text that UTF-8 can hold: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _content_policy(script: str, style: str) -> str:
    """Return a policy under which this script and this style run, and nothing is loaded or sent."""
    rules = {
        "default-src": "'none'",
        "script-src": f"'sha256-{_digest(script)}'",
        "style-src": f"'sha256-{_digest(style)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


DATA = ("data", "prompts", "traces", "results", "preferences", "runs", "run", "eval_data")
"""Fields of configurations that name what was read."""


def origin(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the origin of a page, as (name, text); empty without a record.

    Args:
        record: provenance, as `tokenq.rundir.provenance` gives it, perhaps with "beta".
    """
    if not record:
        return []
    config = record.get("config") or {}
    told = {"command": shlex.join(map(str, record.get("command") or ()))}
    told |= {name: str(one["path"]) for name, one in record.items() if isinstance(one, Mapping) and one.get("path")}
    told |= {_words(name): str(config[name]) for name in ("reward_model", "judge") if config.get(name)}
    told |= {name: text for name in DATA if (text := _listed(config.get(name)))}
    read = record.get("data")
    told["data"] = told.get("data") or (_listed(read.get("sources")) if isinstance(read, Mapping) else "")
    beta = config.get("beta") if record.get("beta") is None else record["beta"]
    strengths = {"β": beta, "β of steps": record.get("image_beta")}
    told |= {name: f"{strength:g}" for name, strength in strengths.items() if strength is not None}
    told["date"] = str(record.get("started", "")).replace("T", " ")[:16]
    told["tokenq"] = str((record.get("versions") or {}).get("tokenq", ""))
    return [(name, text) for name, text in told.items() if text]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _listed(value: Any) -> str:
    """Return names of files or folders in a line; "" for what is none, such as a number of prompts."""
    if isinstance(value, str):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else ""
