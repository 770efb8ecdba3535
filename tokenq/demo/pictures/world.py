"""A world of pictures: a coloured shape in a corner, requests for it in words, and a program that says what is drawn.

64 pictures of 8 × 8 pixels: a colour, a shape and a place, four of each. A user asks with one word for each. Some are
the canonical words that an image model knows; the others are the user's own, and what they mean is only partly known
to a refiner that has read much: it takes a canonical word as meant nine times in ten, an own word four times in ten.
What the labeller means by an own word is a taste of hers: for one in three, a reader's first guess would be another.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

ATTRIBUTES: Final = {
    "colour": ("red", "green", "blue", "yellow"),
    "shape": ("square", "plus", "saltire", "ring"),
    "place": ("northwest", "northeast", "southwest", "southeast"),
}
"""What a picture has, each with the canonical words of its four values."""

CANONICAL: Final = tuple(word for words in ATTRIBUTES.values() for word in words)
"""All of these words: what captions and refined prompts are made of."""

VALUES: Final = 4
SHAPE: Final = (3, 8, 8)

KNOWN: Final = (0.9, 0.4)
"""How often a well-read refiner takes a canonical word, and an own word, as it is meant."""

_COLOURS: Final = ((1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, -1))
_SHAPES: Final = ("###/###/###", ".#./###/.#.", "#.#/.#./#.#", "###/#.#/###")
_CORNERS: Final = ((0, 0), (0, 5), (5, 0), (5, 5))


def _template(colour: int, shape: int, place: int) -> Tensor:
    """Return [3, 8, 8] a picture without noise, on black (−1)."""
    mask = torch.tensor([[mark == "#" for mark in row] for row in _SHAPES[shape].split("/")])
    picture, (top, left) = -torch.ones(SHAPE), _CORNERS[place]
    painted = torch.where(mask, torch.tensor(_COLOURS[colour])[:, None, None].float(), -torch.ones(3, 3, 3))
    picture[:, top : top + 3, left : left + 3] = painted
    return picture


TEMPLATES: Final = torch.stack(
    [_template(*(number // VALUES**2, number // VALUES % VALUES, number % VALUES)) for number in range(VALUES**3)]
)
"""[64, 3, 8, 8] every picture that can be asked for; colour counts slowest, place fastest."""


def pictures_of(values: Tensor) -> Tensor:
    """Return [n, 3, 8, 8] the pictures of values [n, 3] of colour, shape and place."""
    return TEMPLATES[values @ torch.tensor([VALUES**2, VALUES, 1])]


def drawn(pictures: Tensor) -> Tensor:
    """Return [n, 3] the values of colour, shape and place of the template that is nearest to each picture.

    Larger pictures are averaged down to 8 × 8 first.
    """
    seen = nn.functional.adaptive_avg_pool2d(pictures, SHAPE[1:])
    nearest = torch.cdist(seen.flatten(1), TEMPLATES.flatten(1)).argmin(1)
    return torch.stack([nearest // VALUES**2, nearest // VALUES % VALUES, nearest % VALUES], 1)


def wrong_pixels(pictures: Tensor, told: Tensor) -> Tensor:
    """Return [n, 8, 8] True where what is drawn differs from what was told: pixels of a wrong shape, colour or place.

    Args:
        pictures: [n, 3, 8, 8].
        told: [n, 3] the values that the image model was told.
    """
    return (pictures_of(drawn(pictures)) != pictures_of(told)).any(1)


@dataclass(frozen=True)
class Vocabulary:
    """The words of requests, and what they mean.

    Words of an attribute are numbered: the canonical ones, own words, then others that no pair will ever contain, one
    for each own word, which a well-read refiner takes for the same thing as that.

    Attributes:
        words: [3][4 + 2 k] by attribute.
        meant: [3, 4 + 2 k] the value that the labeller means.
        read: [3, 4 + 2 k, 4] how often a well-read refiner takes a word for each value.
    """

    words: tuple[tuple[str, ...], ...]
    meant: Tensor
    read: Tensor

    @property
    def own(self) -> int:
        """k, own words of an attribute."""
        return (len(self.words[0]) - VALUES) // 2

    def requests(self, count: int, generator: torch.Generator) -> Tensor:
        """Return [count, 3] words by number: of each attribute the canonical word or an own one, as likely."""
        canonical = torch.rand(count, 3, generator=generator) < 0.5
        own = VALUES + torch.randint(self.own, (count, 3), generator=generator)
        return torch.where(canonical, torch.randint(VALUES, (count, 3), generator=generator), own)

    def paraphrases(self, requests: Tensor, generator: torch.Generator) -> Tensor:
        """Return the same requests in words that no pair contains: of each attribute one that means the same."""
        wanted = self.values(requests)
        nth = torch.randint(self.own // VALUES, requests.shape, generator=generator)
        return VALUES + self.own + wanted + VALUES * nth

    def values(self, requests: Tensor) -> Tensor:
        """Return [n, 3] the values that the labeller means by requests."""
        return self._of(self.meant, requests)

    def guesses(self, requests: Tensor, generator: torch.Generator) -> Tensor:
        """Return [n, 3] values that a well-read refiner takes requests for."""
        shares = self._of(self.read, requests)
        return torch.multinomial(shares.flatten(0, 1), 1, generator=generator).view(requests.shape)

    def texts(self, requests: Tensor) -> list[str]:
        """Return the requests in words."""
        return [" ".join(self.words[place][word] for place, word in enumerate(row)) for row in requests.tolist()]

    def _of(self, table: Tensor, requests: Tensor) -> Tensor:
        return table[torch.arange(3), requests]


def vocabulary(own: int, seed: int) -> Vocabulary:
    """Return words for requests.

    Args:
        own: own words of an attribute, a multiple of four.
        seed: of what else an own word could be taken for.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(own) % VALUES
    meant = torch.cat([torch.arange(VALUES), numbers, numbers]).expand(3, -1)
    read = torch.empty(3, VALUES + own, VALUES)
    canonical, personal = KNOWN
    read[:, :VALUES] = (1 - canonical) / (VALUES - 1) + (canonical - (1 - canonical) / (VALUES - 1)) * torch.eye(VALUES)
    # The other three values share the rest as the ends of three sticks broken at random: a flat Dirichlet.
    others = torch.rand(3, own, VALUES, generator=generator).log().neg()
    others[:, torch.arange(own), numbers] = 0
    read[:, VALUES:] = (1 - personal) * others / others.sum(-1, keepdim=True)
    read[:, VALUES + torch.arange(own), numbers] = personal
    read = torch.cat([read, read[:, VALUES:]], 1)
    return Vocabulary(_words(own), meant, read)


_SYLLABLES: Final = tuple(first + vowel for vowel in "aeiou" for first in "bdfgklmnprstvz")


def _words(own: int) -> tuple[tuple[str, ...], ...]:
    """Return the canonical words of each attribute and 2 `own` made-up ones, all different."""
    made = [first + second for second in _SYLLABLES[::7] for first in _SYLLABLES]
    each = 2 * own
    return tuple((*known, *made[n * each : (n + 1) * each]) for n, known in enumerate(ATTRIBUTES.values()))
