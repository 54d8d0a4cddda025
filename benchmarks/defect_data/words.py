"""Word problems in many surface forms: text that is long enough for shingles and n-grams, with an
answer and a trace.

Evaluation has scenarios, asides and endings of its own, so that no 8 words in a row stand in both
parts: whoever finds an evaluation item in another row by n-grams has found a planted leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "eval"]
OPERATIONS = {"x": lambda a, b: a * b, "+": lambda a, b: a + b, "-": lambda a, b: a - b}
NAMES = (
    "Amara",
    "Ben",
    "Chloe",
    "Dmitri",
    "Elena",
    "Farid",
    "Greta",
    "Hassan",
    "Ines",
    "Jonas",
    "Keiko",
    "Lars",
    "Maya",
    "Nadia",
    "Oscar",
    "Priya",
    "Quentin",
    "Rosa",
    "Stefan",
    "Tomas",
    "Uma",
    "Viktor",
    "Wendy",
    "Ximena",
    "Yusuf",
    "Zoe",
)
PLACES = (
    "harbour",
    "library",
    "bakery",
    "school",
    "station",
    "museum",
    "orchard",
    "garage",
    "theatre",
    "stadium",
    "clinic",
    "factory",
    "farm",
    "workshop",
    "market",
    "hotel",
    "warehouse",
    "nursery",
    "brewery",
    "airport",
)
ITEMS = (
    "apples",
    "tiles",
    "candles",
    "tickets",
    "notebooks",
    "bricks",
    "lemons",
    "batteries",
    "postcards",
    "chairs",
    "bottles",
    "tulips",
    "cables",
    "badges",
    "plates",
    "lamps",
    "ropes",
    "magnets",
    "towels",
    "pencils",
    "buckets",
    "ribbons",
    "screws",
    "cushions",
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`bodies` and `asks` are wordings of one calculation, from left to right: ``("a", "x b", "-
    c")`` is ``(a x b) - c``.
    """

    steps: tuple[str, ...]
    bodies: tuple[str, ...]
    asks: tuple[str, ...]
    at_most: int = 40  # of the numbers; each is 3 at least


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem; `template` and `slots` make it again with other numbers."""

    question: str
    answer: str
    trace: str
    template: str
    steps: tuple[str, ...]
    slots: tuple[tuple[str, str], ...]
    numbers: tuple[int, ...]


TRAIN = (
    Scenario(
        ("a", "x b", "- c"),
        (
            (
                "At the {place}, {name} unloads {a} crates that hold {b} {item} each, and {c} of"
                " these turn out to be broken."
            ),
            (
                "{name} counts {a} full boxes in the {place}. Every box has {b} {item} in it, but"
                " {c} have to be thrown away."
            ),
        ),
        ("How many good {item} are there?", "What number of {item} can still be used?"),
    ),
    Scenario(
        ("a", "+ b", "- c"),
        (
            (
                "{name} owns {a} {item} and receives {b} more as a present. Later {other} borrows"
                " {c} and does not return them."
            ),
            (
                "In the morning there are {a} {item} on the shelf; {name} adds {b}, and by noon"
                " {other} has taken {c} away."
            ),
        ),
        ("How many {item} remain?", "How many {item} does {name} have now?"),
        at_most=90,
    ),
    Scenario(
        ("a", "- b", "x c"),
        (
            (
                "Of {a} volunteers at the {place}, {b} go home early. Everyone who stays carries"
                " {c} {item} to the cellar."
            ),
            (
                "{name} invites {a} guests and {b} of them cancel. Each guest who comes is given"
                " {c} {item} by {other}."
            ),
        ),
        ("How many {item} is that altogether?", "What is the total number of {item}?"),
    ),
    Scenario(
        ("a", "x b", "+ c"),
        (
            (
                "A machine in the {place} makes {a} {item} an hour. It runs for {b} hours, and"
                " {name} makes {c} more by hand."
            ),
            (
                "{name} walks {a} kilometres a day for {b} days while carrying {item}, and then"
                " another {c} kilometres with {other}."
            ),
        ),
        ("What does that add up to?", "How large is the total?"),
    ),
    Scenario(
        ("a", "+ b", "+ c", "- d"),
        (
            (
                "{name} sells {a} {item} on Monday, {b} on Tuesday and {c} on Wednesday, yet {d}"
                " are brought back by {other}."
            ),
            (
                "Three rooms of the {place} contain {a}, {b} and {c} {item}; on Friday {name} lends"
                " {d} of all these to {other}."
            ),
        ),
        ("How many {item} are gone for good?", "Which number of {item} is left over in the books?"),
        at_most=60,
    ),
    Scenario(
        ("a", "- b", "+ c", "x d"),
        (
            (
                "A bus leaves the {place} with {a} people. At the bridge {b} get off and {c} get"
                " on; each holds {d} {item}."
            ),
            (
                "{name} plans {a} tables, removes {b}, and puts {c} others in their place. On every"
                " table stand {d} {item}."
            ),
        ),
        ("How many {item} are there in total?", "What number of {item} does that make?"),
    ),
    Scenario(
        ("a", "x b", "x c"),
        (
            (
                "The {place} has {a} floors with {b} cupboards on each floor, and {name} stores {c}"
                " {item} in every cupboard."
            ),
            (
                "For {a} weeks {name} fills {b} bags a week, and into each bag go exactly {c}"
                " {item} from {other}."
            ),
        ),
        ("How many {item} is that?", "Find the number of {item}."),
        at_most=14,
    ),
    Scenario(
        ("a", "x b", "+ c", "- d"),
        (
            (
                "{name} saves {a} coins a month for {b} months, finds {c} in an old coat, and pays"
                " {d} for a set of {item}."
            ),
            (
                "A pallet at the {place} carries {a} layers of {b} {item}. {other} puts {c} on top,"
                " then {name} lifts off {d}."
            ),
        ),
        ("What is left at the end?", "How many are there afterwards?"),
    ),
)
EVAL = (
    Scenario(
        ("a", "x b", "- c"),
        (
            (
                "A choir of {a} singers needs {b} {item} per singer for the show, and {name}"
                " already has {c} from last year."
            ),
            (
                "Someone orders {a} parcels with {b} {item} apiece; customs at the {place} keeps"
                " {c} for inspection."
            ),
        ),
        ("How many more must be found?", "How many {item} arrive?"),
    ),
    Scenario(
        ("a", "+ b", "x c"),
        (
            (
                "On a field trip, {a} pupils and {b} teachers from the {place} pick {c} {item} per"
                " person under a hot sun."
            ),
            (
                "Row one seats {a} visitors, row two seats {b}; {name} hands all of them {c} {item}"
                " as they sit down."
            ),
        ),
        ("How many {item} were needed?", "Give the count of {item}."),
    ),
    Scenario(
        ("a", "+ b", "- c", "+ d"),
        (
            (
                "The scoreboard shows {a} points. {name} wins {b}, loses {c} to {other}, and wins"
                " {d} in the last round."
            ),
            (
                "A tank near the {place} holds {a} litres; rain brings {b}, {name} drains {c}, and"
                " a hose brings {d}."
            ),
        ),
        ("What does it show now?", "What is the final figure?"),
        at_most=80,
    ),
    Scenario(
        ("a", "x b", "+ c"),
        (
            (
                "Knitting {a} rows of {b} stitches, {name} stops for tea near the {place} before"
                " finishing {c} stitches more."
            ),
            (
                "Every one of {a} drawers hides {b} {item}, and underneath the desk {other}"
                " discovers {c} that nobody had counted."
            ),
        ),
        ("How many has that been?", "State the whole amount."),
    ),
)
ASIDES = {
    "train": (
        "It is a windy day in {month} and the {place} closes at {hour} o'clock.",
        "{other} is watching from a bench and eats {extra} sandwiches.",
        "The old clock above the door is {extra} minutes late, as usual.",
        "Nobody at the {place} has seen so much work since {month}.",
        "{name} has been doing this for {extra} years and enjoys it.",
        "Outside, {extra} pigeons are waiting for crumbs.",
        "A radio plays quietly while {other} looks for a pen.",
        "The street in front of the {place} was painted in {month}.",
    ),
    "eval": (
        "By {month} the rule about shoes had been dropped, which pleased {other}.",
        "There were {extra} clouds overhead and a smell of paint.",
        "Meanwhile {other} slept through the whole affair in a deck chair.",
        "Tickets cost {extra} crowns, though that hardly mattered to anybody present.",
        "Some say the {place} is haunted; {name} laughs at such stories.",
        "A dog barked {extra} times behind the fence.",
    ),
}
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
SYNONYMS = {
    "each": "every",
    "every": "each",
    "exactly": "precisely",
    "broken": "damaged",
    "receives": "gets",
    "later": "afterwards",
    "carries": "brings",
    "makes": "produces",
    "another": "a further",
    "sells": "vends",
    "contain": "hold",
    "leaves": "departs",
    "removes": "discards",
    "stores": "keeps",
    "fills": "packs",
    "finds": "discovers",
    "lifts": "takes",
    "counts": "sees",
    "needs": "requires",
    "orders": "requests",
    "pick": "gather",
    "hands": "gives",
    "wins": "gains",
    "holds": "contains",
    "hides": "conceals",
    "discovers": "finds",
    "stops": "pauses",
    "adds": "places",
    "quietly": "softly",
    "watching": "looking on",
    "enjoys": "likes",
    "waiting": "hoping",
    "seats": "takes",
    "shows": "reads",
    "total": "overall",
}
SHELLS = ("{}", "{}", "Question: {}", "{} Answer with a number.", "Please solve: {}")
