"""Words that the rules for entities go by: tables only, each an alternation of an expression or a set of lower case."""

MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December|Jan|Feb|Mar|Apr|Jun|Jul|Aug"
    "|Sept|Sep|Oct|Nov|Dec"
)
WEEKDAYS = "Mondays?|Tuesdays?|Wednesdays?|Thursdays?|Fridays?|Saturdays?|Sundays?"
COUNTS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen"
    "|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)
SCALES = "hundred|thousand|million|billion|trillion|dozen"
UNITS = (
    "seconds?|minutes?|hours?|days?|nights?|weeks?|months?|years?|decades?|centuries|mm|cm|km|kms|metres?|meters?|miles?"
    "|feet|foot|inch(?:es)?|yards?|acres?|hectares?|mg|kg|grams?|kilograms?|kilometres?|kilometers?|pounds?|lbs?|tons?"
    "|tonnes?|litres?|liters?|gallons?|degrees|mph|kmh|[kmgt]b|mw|gw|kwh|hz|mhz|ghz|volts?|watts?|barrels|points"
)
CONNECTORS = "of|de|del|della|di|da|do|dos|van|von|der|den|la|le|al|bin|ibn|du|y"
_TITLES = """
mr mrs ms miss dr prof professor sir president minister chancellor king queen prince princess senator judge captain
general colonel pope chief officer ceo cfo detective coach congressman congresswoman governor mayor secretary
"""
TITLES = frozenset(_TITLES.split())
"""Words before a name that are no part of it."""

_OPENERS = """
a an the this that these those in on at by for from of to with as if when while after before since until during under
over between into about against and or but so yet nor because although though despite however meanwhile according he
she it they we you i his her its their our my your there here what who where why how which both each every some many
most several all any no not also then now once only just more earlier later last next today yesterday tomorrow
"""
OPENERS = frozenset(_OPENERS.split())
"""Words that begin a sentence, and no name with it."""

COMMON = OPENERS | TITLES | {"i'm", "i'll", "i've", "i'd", "it's", "he's", "she's", "that's", "ok"}
"""What is no name, even alone and with a capital."""

_VERBS = """
said says told is was has had will would won lost went met became announced agreed refused moved bought sold plans wants
joined left signed beat reported opened closed launched scored hired denied confirmed and
"""
VERBS = frozenset(_VERBS.split())
"""Words that follow a name at the beginning of a sentence more often than any other word that begins one."""
