"""The words of the world of posts: topics, attributes, values, and how posts and summaries speak of them.

Tables only: `tokenq.demo.tldr` draws from them, `tokenq.demo.gold` reads them back. Every value is one word, so
that a wrong fact is exactly one wrong token of the demonstration model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CITIES: Final = ("Leeds", "Porto", "Lyon", "Bergen", "Ghent", "Turin", "Malmo", "Graz", "Bilbao", "Krakow")
MONTHS: Final = ("January", "March", "April", "May", "June", "July", "September", "October", "November")
NAMES: Final = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Iris", "Jonas")
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
AMOUNTS: Final = ("400", "450", "500", "550", "600", "650", "700", "750", "800", "850", "900", "950")
COUNTS: Final = ("2", "3", "4", "5", "6", "7", "8", "9", "10", "12", "14", "20")
RIDES: Final = ("train", "bus", "ferry", "plane", "car")
FLOORS: Final = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True)
class Attribute:
    """Something that a post can state and a summary can report.

    Attributes:
        values: the words that it can take.
        stated: sentences that state it in a post, with `{}` for the value.
        asides: sentences about the same attribute of something else, which a summary must not report.
        noted: phrases that report it in a summary. No phrase of another attribute may match the same text.
    """

    values: tuple[str, ...]
    stated: tuple[str, ...]
    asides: tuple[str, ...]
    noted: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """What a post is about.

    Attributes:
        opening: the first sentences of its posts, one is drawn.
        title: how a summary names it.
        attributes: what its posts may state, in the order in which a careful summary reports them.
    """

    opening: tuple[str, ...]
    title: str
    attributes: tuple[str, ...]


ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "pay": Attribute(
        AMOUNTS,
        ("They would pay {} a week.", "The new pay is {} a week.", "It pays {} a week."),
        ("Right now I earn {} a week.", "My old pay is {} a week."),
        ("pays {}", "pay {}"),
    ),
    "hours": Attribute(
        COUNTS,
        ("The shifts are {} hours.", "I would work {} hours a day."),
        ("Right now I work {} hours.", "My old shifts are {} hours."),
        ("{} hours", "shifts of {}"),
    ),
    "boss": Attribute(
        NAMES,
        ("The boss would be {}.", "I would work for {}."),
        ("Right now I work for {}.", "My old boss is {}."),
        ("boss {}", "works for {}"),
    ),
    "rent": Attribute(
        AMOUNTS,
        ("The rent is {} a month.", "They ask {} a month for it."),
        ("Right now I pay {} a month.", "My old rent is {} a month."),
        ("rent {}", "rents for {}"),
    ),
    "rooms": Attribute(
        COUNTS,
        ("There are {} rooms.", "It has {} rooms."),
        ("Right now I have {} rooms.", "My old place has {} rooms."),
        ("{} rooms", "room count {}"),
    ),
    "floor": Attribute(
        FLOORS,
        ("It is on the {} floor.", "The {} floor is where it is."),
        ("Right now I live on the {} floor.", "My old place is on the {} floor."),
        ("{} floor", "{} level"),
    ),
    "price": Attribute(
        AMOUNTS,
        ("The price is {} in all.", "It costs {} in all."),
        ("Last year I paid {} in all.", "My old one was {} in all."),
        ("costs {}", "price {}"),
    ),
    "nights": Attribute(
        COUNTS,
        ("We would stay {} nights.", "It is for {} nights."),
        ("Last year we stayed {} nights.", "My old plan was {} nights."),
        ("{} nights", "stay of {}"),
    ),
    "ride": Attribute(
        RIDES,
        ("We would go by {}.", "The way there is by {}."),
        ("Last year we went by {}.", "Right now I go to work by {}."),
        ("by {}", "takes the {}"),
    ),
    "friend": Attribute(
        NAMES,
        ("I would go with {}.", "It would be me and {}."),
        ("Last year I went with {}.", "Right now I live with {}."),
        ("with {}", "goes with {}"),
    ),
    "day": Attribute(
        DAYS,
        ("It would be on {}.", "We would meet every {}."),
        ("Right now I swim on {}.", "My old class was on {}."),
        ("on {}", "every {}"),
    ),
    "weeks": Attribute(
        COUNTS,
        ("The course takes {} weeks.", "It runs for {} weeks."),
        ("My old course took {} weeks.", "Last year I did {} weeks."),
        ("{} weeks", "lasts {}"),
    ),
    "teacher": Attribute(
        NAMES,
        ("The teacher is {}.", "We would learn from {}."),
        ("My old teacher was {}.", "Last year I had {}."),
        ("teacher {}", "taught by {}"),
    ),
    "city": Attribute(
        CITIES,
        ("It is in {}.", "The place is in {}.", "I would be in {}."),
        ("Right now I live in {}.", "My sister lives in {}."),
        ("in {}", "city {}"),
    ),
    "start": Attribute(
        MONTHS,
        ("It starts in {}.", "They want me there by {}."),
        ("My old contract ends in {}.", "Right now I am busy until {}."),
        ("from {}", "starts in {}"),
    ),
}
"""Every attribute by name. Some share their values (amounts, counts, names): only the sentence tells them apart."""

TOPICS: Final[tuple[Topic, ...]] = (
    Topic(("I got a job offer.", "A new job came up."), "job", ("pay", "hours", "boss", "city", "start", "day")),
    Topic(("I found a flat.", "A new flat came up."), "flat", ("rent", "rooms", "floor", "city", "start", "friend")),
    Topic(("I planned a trip.", "A new trip came up."), "trip", ("price", "nights", "ride", "friend", "city", "start")),
    Topic(
        ("I found a course.", "A new course came up."), "course", ("price", "day", "weeks", "teacher", "city", "start")
    ),
)

FILLERS: Final = (
    "I like it a lot.",
    "I am not sure.",
    "My mother says no.",
    "It was a long week.",
    "I slept on it.",
    "My friends like it.",
)
"""Sentences of a post that state nothing."""

QUESTIONS: Final = ("Should I take it?", "What would you do?")
"""How a post ends."""

REMARKS: Final = ("so I am not sure", "what would you do", "my mother says no", "I like it a lot")
"""Phrases of a summary that report nothing and cost their tokens."""

POST: Final = "POST: {}\nTL;DR:"
"""The prompt around a post; a summary begins with the space that follows."""
