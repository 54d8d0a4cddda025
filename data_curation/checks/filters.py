"""Why a sound row may still be rejected: length, empty or looping reasoning, a language that the
recipe does not list.

All of it is about one row's texts and needs no model but py3langid's, which is loaded once a
process and only where languages are asked for. A limit of 0 and an empty list switch a filter off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from bimode.config.curate import FilterConfig
from bimode.errors import ConfigError

MIN_TOKENS = 40  # below, a text is too short to say that it repeats itself
TAIL_TOKENS = 200  # looked at alone too: a loop begins somewhere and then fills the rest
GRAM = 4
LANGUAGE_CHARACTERS = 1000
# probability of the asked languages below which a text is in another; English templates reach 0.04
# at least
PLAUSIBLE = 0.02
UNSPACED = (  # Thai, Lao, Burmese, Khmer, kana, Han
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
)
# a long run of letters without a blank counts as several tokens, so that a loop without blanks is
# one
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{1,16}}|[^\w\s]{{1,16}}")
CONTENT = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
WORD = re.compile(rf"[{UNSPACED}]|[^\W\d_{UNSPACED}]+")
NO_LANGUAGE = re.compile(r"\$[^$]*\$|\\[A-Za-z]+|https?://\S+")  # mathematics and links

STOCK = frozenset(
    re.findall(
        r"\w+",
        """
    a about an and answer answers at be by calculate carefully consider do final find first
    follows for given have here hmm i image in is it its let lets look looking me my n na need
    next no none now null of ok okay out picture problem question reason reasoning result see
    should so solution solve start step steps sure task that thats the then therefore think
    thinking this thought thoughts through thus to todo understand us wait we well what will
    with work
    """,
    )
)


def filter_row(question: str, answer: str, trace: str, config: FilterConfig) -> tuple[str, str]:
    """(reason, detail) of the first filter that stops a row, ("", "") if none does; reasons are
    `validate.REASONS`.
    """
    for name, text, limit in (
        ("question", question, config.max_question),
        ("answer", answer, config.max_answer),
    ):
        if len(text) > limit:
            return f"long_{name}", f"{len(text)} characters"
    if config.max_repetition and (share := repetition(question)) > config.max_repetition:
        return "repetition", f"{share:.2f} of the question"
    if trace and any(found := filter_trace(question, answer, trace, config)):
        return found
    prose = NO_LANGUAGE.sub(" ", question)
    if config.languages and len(WORD.findall(prose)) >= config.language_words:
        language, share = identify(prose[:LANGUAGE_CHARACTERS], config.languages)
        if share < PLAUSIBLE:
            return "wrong_language", language
    return "", ""


def filter_trace(question: str, answer: str, trace: str, config: FilterConfig) -> tuple[str, str]:
    """The same of a source's own trace, which is not empty."""
    if len(trace) > config.max_trace:
        return "long_trace", f"{len(trace)} characters"
    if says_nothing(trace, question, answer):
        return "empty_trace", ascii(trace[:80])[1:81]
    if config.max_repetition and (share := repetition(trace)) > config.max_repetition:
        return "repetition", f"{share:.2f} of the trace"
    return "", ""


def says_nothing(trace: str, question: str, answer: str) -> bool:
    """Whether `trace` could stand under any question: but for stock words ("let me think step by
    step") it is empty, or the answer alone, or without a number and without a word of question or
    answer.
    """
    said, given = content_words(trace), content_words(answer)
    if not said or said == given:
        return True
    return not any(map(str.isdigit, trace)) and set(said).isdisjoint(
        [*given, *content_words(question)]
    )


def content_words(text: str) -> list[str]:
    """The words and numbers of `text` that are not stock; single characters in a script without
    blanks.
    """
    found = CONTENT.findall(text.casefold().replace("'", "").replace("\u2019", ""))
    return [word for word in found if word not in STOCK]


def repetition(text: str) -> float:
    """Share of the 4-grams that the text has had before: of all, or of its last 200 tokens alone if
    that is more.

    0 for a text of fewer than 40 tokens. A token is a word, a run of punctuation, or a character of
    a script without blanks. Working that goes row by row stays below a half, as its numbers change;
    a phrase that fills the rest comes near 1.
    """
    tokens = TOKEN.findall(text.casefold())
    if len(tokens) < MIN_TOKENS:
        return 0.0
    return max(_repeated(tokens), _repeated(tokens[-TAIL_TOKENS:]))


def _repeated(tokens: Sequence[str]) -> float:
    count = len(tokens) - GRAM + 1
    grams = {tuple(tokens[at : at + GRAM]) for at in range(count)}
    return 1 - len(grams) / count


@lru_cache(maxsize=1 << 14)  # templates ask the same question of many images
def identify(text: str, languages: tuple[str, ...]) -> tuple[str, float]:
    """The language of `text`, and how probable it is one of `languages` (codes of ISO 639, e.g.
    "en").

    All that py3langid knows compete: if it chose among `languages` only, every text would be in one
    of them.
    """
    language, share = _identifier().classify(text)
    if language in languages:
        return language, share
    return language, sum(share for name, share in _identifier().rank(text) if name in languages)


def check_languages(languages: Sequence[str]) -> None:
    """Raise ConfigError for a language code that py3langid does not know: with such a code the
    filter would reject every text.
    """
    if languages and (unknown := sorted(set(languages) - set(_identifier().labels))):
        known = ", ".join(sorted(_identifier().labels))
        raise ConfigError("curate.filter.languages", ", ".join(unknown), f"use codes as {known}")


@cache
def _identifier() -> Any:
    """Loaded once a process, which takes a second or two."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
