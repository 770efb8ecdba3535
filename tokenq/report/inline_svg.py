"""Figures as part of a page that lets nothing in: SVG without style, whose text is text and takes the page's ink.

matplotlib says how its shapes look in style attributes, which a strict content security policy blocks, and names them
with ids that repeat from figure to figure. Here the looks become attributes of SVG's own and ids become the figure's.
"""

import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DROPPED = {"style", "metadata"}
_INHERITED = {"font-family"}
"""What the page decides."""


def inline_svg(drawn: "Figure", name: str, label: str) -> Markup:
    """Return a figure as an SVG element of a page.

    Black becomes the colour of the page's text and the ground is left out, so that it can be read on light and dark.

    Args:
        drawn: the figure; its text should not need the font in which it was laid out.
        name: of the figure, once on a page: its ids begin with it.
        label: what is read out instead.
    """
    from matplotlib import rc_context

    target = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tokenq"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        drawn.savefig(target, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(target.getvalue())
    head = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label, "fill": "currentColor"}
    look = {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # what its style sheet says of everything
    return Markup("<svg{}>{}</svg>").format(_written(head | look), Markup().join(_element(one, name) for one in root))


def _element(node: ElementTree.Element, name: str) -> Markup:
    """Return an element with what is in it."""
    tag = _local(node.tag)
    if tag in _DROPPED:
        return Markup()
    inside = Markup().join(_element(one, name) for one in node)
    text = escape(node.text) if tag in ("text", "tspan") and node.text else ""
    return Markup("<{0}{1}>{2}{3}</{0}>").format(tag, _written(_attributes(node, name)), text, inside)


def _attributes(node: ElementTree.Element, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in node.attrib.items():
        key = _local(key)
        if key == "style":
            rules = (rule.partition(":") for rule in value.split(";") if rule.strip())
            found |= {rule.strip(): setting.strip() for rule, _, setting in rules if rule.strip() not in _INHERITED}
        elif key == "id":
            # Groups have names that nothing refers to.
            found |= {} if _local(node.tag) == "g" else {key: f"{name}-{value}"}
        elif key == "href":
            found[key] = f"#{name}-{value[1:]}"
        else:
            found[key] = re.sub(r"^url\(#", f"url(#{name}-", value) if key == "clip-path" else value
    return {key: "currentColor" if value == "#000000" else value for key, value in found.items()}


def _written(attributes: dict[str, str]) -> Markup:
    return Markup().join(Markup(' {}="{}"').format(key, " ".join(value.split())) for key, value in attributes.items())


def _local(name: str) -> str:
    """Return a name without its namespace."""
    return name.rpartition("}")[2]
