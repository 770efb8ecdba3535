"""Pictures with credit that was made by hand: a square of four pixels on eight by eight, two words, three steps."""

import io

import numpy as np
from PIL import Image

from tokenq.records.picture_traces import PictureTrace, ReadPicture


def hand_made_picture(name="1/chosen", prompt="a <b>red</b> square", words=True):
    """Return a picture whose square the policy likes in every step, more from step to step."""
    maps = np.zeros((3, 8, 8), np.float32)
    maps[:, 2:4, 2:4] = np.array([0.25, 0.5, 1.0])[:, None, None]
    maps[2, 7, 7] = -2.0
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[2:4, 2:4, 0] = 255
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    said = ("red", " square") if words else ()
    trace = PictureTrace(
        id=name,
        prompt=prompt,
        drawn_prompt="".join(said) or prompt,
        picture="1.png",
        maps="1.safetensors",
        form="trajectory",
        beta=1.0,
        image_beta=1.0,
        guidance=1.0,
        words=said,
        word_ids=tuple(range(len(said))),
        word_logps=(-1.0, -2.0)[: len(said)],
        word_ref_logps=(-1.5, -1.75)[: len(said)],
        levels=(100, 50, 20),
        logps=(1.0, 2.0, 2.0),
        ref_logps=(0.0, 0.0, 0.0),
        policy="p",
        reference="r",
    )
    return ReadPicture(trace, maps, png.getvalue())
