"""Credit maps as pictures: blue where the policy is likelier than its reference, orange where it is less likely."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenq.report.channels import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from PIL.Image import Image

_SHORTEST = 256
"""Pixels of the longer side of what is written, at least."""


def heat(credit: NDArray[Any], scale: float | None = None) -> NDArray[np.uint8]:
    """Return a credit map [height, width] as RGB [height, width, 3], white at 0.

    Args:
        credit: implicit reward of every pixel.
        scale: the value of the deepest colour; None: the largest of this map.
    """
    largest = float(np.abs(credit).max(initial=0.0)) if scale is None else scale
    shares = np.clip(credit / largest, -1, 1) if largest > 0 else np.zeros_like(credit)
    colours = np.where((shares > 0)[..., None], np.array(POSITIVE, np.float64), np.array(NEGATIVE, np.float64))
    depth = np.abs(shares)[..., None]
    found: NDArray[np.uint8] = np.round(255 * (1 - depth) + colours * depth).astype(np.uint8)
    return found


def enlarged(pixels: NDArray[np.uint8]) -> "Image":
    """Return pixels as a picture, each a square of its own where there are few."""
    from PIL import Image

    times = max(1, -(-_SHORTEST // max(pixels.shape[:2])))
    return Image.fromarray(np.kron(pixels, np.ones((times, times, 1), np.uint8)))


def heat_png(credit: NDArray[Any]) -> bytes:
    """Return a credit map as a PNG of at least 256 pixels."""
    buffer = io.BytesIO()
    enlarged(heat(credit)).save(buffer, "PNG")
    return buffer.getvalue()
