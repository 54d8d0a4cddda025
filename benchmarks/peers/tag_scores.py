"""Tags against the truth: what 64 attempts say of an item, what 8 make of it by each rule, and what
needs no attempt at all.

The truth of an item is read off its number: 64 attempts at the right one of 23, where luck hardly
matters. The same attempts are also marked as if the item had been a multiple-choice question, where
luck matters much; what the model knows stays the same. So the truth does not presuppose the
correction that is on trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bimode.config.curate import TagConfig
from bimode.evaluation.statistics import wilson
from bimode.grading.verify import is_correct
from bimode.modes import THINK_CLOSE
from data_curation.tagging.calibration import choose_threshold
from data_curation.tagging.tags import assign_tag, can_think, correct_for_guessing

CLASSES = ("thinking", "non_thinking", "either")
OPTIONS = "ABCD"
MARKINGS = {
    "number": 0,
    "4 choices": 4,
    "2 choices": 2,
}  # how many options there are; 0: the number itself
TAGGED = 8  # attempts of each mode that make the tag; those after them make the truth
RULES = ("corrected", "uncorrected", "r4b")
BASELINES = ("majority", "length")
ORACLE = "knob"
DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Item:
    """A question under one marking, with its attempts in order.

    E.g. ``Item("digits-eval-0-7", "digits", "4 noisy", 61, 0.25, (True, False, ...), (True, True,
    ...))``: four operands in a noisy picture, a question of 61 characters.
    """

    id: str
    task: str
    knob: str
    length: int
    guess_rate: float
    direct: tuple[bool, ...]
    think: tuple[bool, ...]


def as_choice(text: str, choices: int) -> str:
    """A response that ends in a number, with the letter of the option that the number falls under:
    its remainder by `choices`.
    """
    head, close, said = text.partition(THINK_CLOSE)
    said = said.strip()
    return (
        f"{head}{close}{OPTIONS[int(said) % choices]}"
        if said.isascii() and said.isdigit()
        else text
    )


def is_right(text: str, answer: str, choices: int) -> bool:
    """The project's own verdict on a response, marked as one of `choices` options or (0) as the
    number.
    """
    if not choices:
        return is_correct(text, answer, "exact", "{}")
    return is_correct(as_choice(text, choices), OPTIONS[int(answer) % choices], "choice", "{}")


def truth_of(item: Item, config: TagConfig) -> str:
    """What the attempts after the first `TAGGED` say: the rule's thresholds without its doubts."""
    direct, think = item.direct[TAGGED:], item.think[TAGGED:]
    rate = correct_for_guessing(sum(direct) / len(direct), item.guess_rate)
    if rate >= config.non_thinking_ok:
        return "non_thinking"
    return "thinking" if rate < config.non_thinking_poor and sum(think) > sum(direct) else "either"


def tags_by_rule(items: Sequence[Item], rule: str, config: TagConfig) -> list[str]:
    """The tags of `data_curation.tagging.tags` from the first `TAGGED` attempts, as curation
    assigns them; `uncorrected`: with guess rate 0.
    """
    guess = [0.0 if rule == "uncorrected" else item.guess_rate for item in items]
    config = config.model_copy(update={"rule": "r4b" if rule == "r4b" else "corrected"})
    passes = [(sum(item.direct[:TAGGED]), sum(item.think[:TAGGED])) for item in items]
    thinks = can_think(
        sum(k for _, k in passes), TAGGED * len(items), float(np.mean(guess)), config.confidence
    )
    return [
        assign_tag(*each, TAGGED, g, thinks, config).mode
        for each, g in zip(passes, guess, strict=True)
    ]


def halves(count: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(learn, test) and the other way round, drawn at random: families and levels take turns, and
    must not end up in one half.
    """
    order = np.random.default_rng(0).permutation(count)
    first, second = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    return [(first, second), (second, first)]


def guess_majority(truth: Sequence[str]) -> list[str]:
    """The most common truth for all: chosen on the very items that it is tested on, which favors
    it.
    """
    return [Counter(truth).most_common(1)[0][0]] * len(truth)


def guess_by_length(items: Sequence[Item], truth: Sequence[str]) -> list[str]:
    """A threshold on the question's length, chosen on the clear items of the other half (as
    `data_curation.tagging.calibration` does).
    """
    lengths, words = np.array([item.length for item in items]), np.array(truth)
    tags = np.empty(len(items), dtype=object)
    for learn, test in halves(len(items)):
        clear = learn[words[learn] != "either"]
        threshold, long_thinks = choose_threshold(lengths[clear], words[clear] == "thinking")
        tags[test] = np.where(
            (lengths[test] > threshold) == long_thinks, "thinking", "non_thinking"
        )
    return list(tags)


def guess_by_knob(items: Sequence[Item], truth: Sequence[str]) -> list[str]:
    """The generator's own knob: the most common truth of equal task and knob in the other half. No
    real data has it.
    """
    keys = [(item.task, item.knob) for item in items]
    tags = [""] * len(items)
    for learn, test in halves(len(items)):
        known: dict[tuple[str, str], Counter[str]] = {}
        for at in learn:
            known.setdefault(keys[at], Counter())[truth[at]] += 1
        for at in test:
            tags[at] = known[keys[at]].most_common(1)[0][0] if keys[at] in known else "either"
    return tags


@dataclass(frozen=True, slots=True)
class Score:
    """One method on the items of one marking, `hits` in their order. Clear items are those whose
    truth is not `either`.
    """

    marking: str
    method: str
    n: int
    right: int
    low: float  # Wilson, 95 %
    high: float
    kappa: float  # Cohen's, three classes; NaN where chance alone would always agree
    clear: int
    clear_right: int
    clear_either: int
    clear_opposite: int
    confusion: tuple[
        tuple[int, ...], ...
    ]  # rows: the truth, columns: the tag, both in the order of CLASSES
    hits: tuple[bool, ...]

    @property
    def agreement(self) -> float:
        """Share of items whose tag is the truth."""
        return self.right / self.n


def score(marking: str, method: str, truth: Sequence[str], tags: Sequence[str]) -> Score:
    """Compares tags with truths of the same items. A tag that is no word of `CLASSES` (a judge
    without a verdict) is a miss.
    """
    pairs = Counter(zip(truth, tags, strict=True))
    table = np.array([[pairs[true, tag] for tag in CLASSES] for true in CLASSES])
    hits, n = tuple(true == tag for true, tag in zip(truth, tags, strict=True)), len(truth)
    chance = sum(Counter(truth)[word] * Counter(tags)[word] for word in CLASSES) / n**2
    return Score(
        marking,
        method,
        n,
        sum(hits),
        *wilson(sum(hits), n, 0.95),
        kappa=float("nan") if chance == 1 else (sum(hits) / n - chance) / (1 - chance),
        clear=sum(word != "either" for word in truth),
        clear_right=int(table[0, 0] + table[1, 1]),
        clear_either=int(table[0, 2] + table[1, 2]),
        clear_opposite=int(table[0, 1] + table[1, 0]),
        confusion=tuple(tuple(map(int, row)) for row in table),
        hits=hits,
    )


def score_all(
    items: dict[str, list[Item]],
    config: TagConfig,
    judged: Sequence[str] | None,
    own_truth: bool = False,
) -> list[Score]:
    """Every method under every marking; `items[marking]` are the same questions in the same order.

    `judged`: the judge's tags of these questions, if there is one. `own_truth`: the truth is read
    off each marking's own attempts, corrected for guessing, instead of off the number's.
    """
    known = [truth_of(item, config) for item in items["number"]]
    scores = []
    for marking, of_marking in items.items():
        truth = [truth_of(item, config) for item in of_marking] if own_truth else known
        tags = {rule: tags_by_rule(of_marking, rule, config) for rule in RULES}
        tags |= {"majority": guess_majority(truth), "length": guess_by_length(of_marking, truth)}
        tags |= {ORACLE: guess_by_knob(of_marking, truth)} | (
            {"judge": list(judged)} if judged is not None else {}
        )
        scores += [score(marking, method, truth, found) for method, found in tags.items()]
    return scores


def pooled(scores: Sequence[Score], method: str, less: str = "") -> tuple[float, float, float]:
    """Agreement of `method` over all markings (minus that of `less`) with a 95 % bootstrap interval
    over questions: the markings of one question share their attempts, so Wilson's interval would be
    too narrow.
    """
    hits_N = _mean_hits(scores, method) - (_mean_hits(scores, less) if less else 0.0)
    sampled = np.random.default_rng(0).integers(len(hits_N), size=(DRAWS, len(hits_N)))
    low, high = np.quantile(hits_N[sampled].mean(axis=1), (0.025, 0.975))
    return float(hits_N.mean()), float(low), float(high)


def lucky(items: dict[str, list[Item]], marking: str) -> tuple[int, int]:
    """Attempts of both modes whose number is wrong: (how many of them are right under `marking`,
    how many there are).
    """
    chances = [
        chosen
        for number, item in zip(items["number"], items[marking], strict=True)
        for right, chosen in zip(
            number.direct + number.think, item.direct + item.think, strict=True
        )
        if not right
    ]
    return sum(chances), len(chances)


def marked(
    item: Item, choices: int, answer: str, direct: Sequence[str], think: Sequence[str]
) -> Item:
    """`item` with the attempts' texts marked under `choices`."""
    rights = [tuple(is_right(text, answer, choices) for text in texts) for texts in (direct, think)]
    return replace(
        item,
        guess_rate=1 / choices if choices else item.guess_rate,
        direct=rights[0],
        think=rights[1],
    )


def _mean_hits(scores: Sequence[Score], method: str) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.array(
        [s.hits for s in scores if s.method == method], dtype=np.float64
    ).mean(axis=0)
    return found
