"""Why a reasoning trace is rejected, a source's own or a model's: R-4B's consistency, keyword and
duplicate filters (arXiv 2508.21113, 2.1, which states neither words nor thresholds), loops, and
wrong steps of arithmetic.

Each check returns a reason code and a detail. A check that cannot decide lets the trace pass, e.g.
if an option is never named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from bimode.config.traces import TraceConfig
from bimode.grading.answer_reader import LEAD_IN, OPTION, final_answer, plain_number
from bimode.grading.verify import OPEN, is_correct, is_number
from bimode.inputs.text import OURS, ControlTokens
from bimode.modes import THINK_CLOSE
from bimode.storage.dataset import Row
from data_curation.checks.filters import repetition
from data_curation.number_words import SPELLED, value_of
from data_curation.traces.steps import wrong_step

EMPTY, FORBIDDEN, LOOP = "empty_trace", "forbidden_phrase", "looping_trace"
INCONSISTENT, WRONG_STEP, TEMPLATE = "inconsistent_trace", "wrong_step", "template_trace"
TRACE_REASONS = (EMPTY, FORBIDDEN, LOOP, INCONSISTENT, WRONG_STEP, TEMPLATE)
NUMBERS = re.compile(
    r"(?<![\w.])[+-]?\d+(?:/\d+|(?:\.\d+)?(?:e[+-]?\d+)?)(?!\d|st\b|nd\b|rd\b|th\b)"
)
RESULTS = re.compile(
    rf"(?:=|\b(?:so|thus|hence|therefore)\b,?)\s*[$\u20ac\u00a3]?({NUMBERS.pattern})", re.I
)
SENTENCE = re.compile(r"(?<=[.!?])\s+|[;\n]")
ANNOTATION = re.compile(r"<<[^<>]*>>")
CONCLUSION = re.compile(r"\W*(?:so|thus|hence|therefore)\b,? *(?:it is |it's )?(.+)", re.I | re.S)
PASSED = ("", "")
Check = Callable[[Row, str, TraceConfig], tuple[str, str]]


def is_replaceable(verifier: str, config: TraceConfig) -> bool:
    """Whether a teacher may write another trace for a row; it gets no open questions."""
    return bool(config.model) and verifier != OPEN


def check_trace(
    row: Row, trace: str, config: TraceConfig, controls: ControlTokens = OURS
) -> tuple[str, str]:
    """(reason, detail) of the first check that `trace` fails, ("", "") if none.

    `row` has question, answer, verifier and verifier_args; `controls` are those of the tokenizer
    that will read the trace.
    """
    if token := controls.first_in(trace):
        return FORBIDDEN, token
    for check in CHECKS:
        reason, detail = check(row, trace, config)
        if reason:
            return reason, detail[:300]
    return PASSED


def _empty(row: Row, trace: str, config: TraceConfig) -> tuple[str, str]:
    return PASSED if any(map(str.isalnum, trace)) else (EMPTY, "")


def _forbidden(row: Row, trace: str, config: TraceConfig) -> tuple[str, str]:
    said = " ".join(trace.casefold().replace("\u2019", "'").split())
    found = next((phrase for phrase in config.forbidden if phrase in said), "")
    return (FORBIDDEN, found) if found else PASSED


def _loop(row: Row, trace: str, config: TraceConfig) -> tuple[str, str]:
    share = repetition(trace)
    return (LOOP, f"{share:.2f} repeated") if share > config.max_repetition else PASSED


def _inconsistent(row: Row, trace: str, config: TraceConfig) -> tuple[str, str]:
    answer, verifier, args = row["answer"].strip(), row["verifier"], row["verifier_args"]
    if is_number(answer):
        stated = stated_number(trace)
        if not stated:
            return INCONSISTENT, f"states no number, the answer is {answer}"
        kind, args = "number", args if verifier == "number" else "{}"
    elif verifier == "choice":
        stated, kind = stated_word(trace), "choice"
    else:
        return PASSED
    if not stated or is_correct(f"{THINK_CLOSE}{stated}", answer, kind, args):
        return PASSED
    if kind == "choice" and not _comparable(stated, answer):
        return PASSED
    return INCONSISTENT, f"comes to {stated}, the answer is {answer}"


def _comparable(stated: str, answer: str) -> bool:
    """A letter with a letter, a word with words that lack it: a trace may name the option where the
    answer is its letter.
    """
    gold = answer.strip("().").casefold()
    is_letter = len(gold) == 1 and gold.isalpha()
    return is_letter == bool(OPTION.match(stated)) and (is_letter or gold not in stated.casefold())


def stated_number(trace: str) -> str:
    r"""The number that a trace comes to: in ``\boxed{}`` or after "answer is", else in the last
    sentence with a number: what follows its last ``=`` or "so" at once, else its last number. One
    below 1000 may be in words there. Empty if there is none.
    """
    text = plain_number(ANNOTATION.sub("", trace))
    if r"\boxed{" in text or LEAD_IN.search(text):
        found = NUMBERS.search(final_answer(text))
        if found:
            return found[0]
    for sentence in reversed(SENTENCE.split(text)):
        if numbers := RESULTS.findall(sentence) or NUMBERS.findall(sentence):
            return str(numbers[-1])
        if spelled := SPELLED.findall(sentence.casefold()):
            return str(value_of(spelled[-1]))
    return ""


def stated_word(trace: str) -> str:
    r"""The option or word that a trace says it comes to: ``\boxed{B}``, "answer is B", a last
    sentence "so B"; else empty.
    """
    if r"\boxed{" in trace or LEAD_IN.search(trace):
        return re.split(r"[.;\n]", final_answer(trace))[0].strip()
    last = next((s for s in reversed(SENTENCE.split(trace)) if s.strip()), "")
    conclusion = CONCLUSION.match(last)
    if conclusion is None:
        return ""
    said = conclusion[1]
    end = max((at for at, char in enumerate(said, 1) if char.isalnum() or char == "_"), default=0)
    return said[:end] if len(said[:end].split()) == 1 else ""


def _wrong_step(row: Row, trace: str, config: TraceConfig) -> tuple[str, str]:
    step = wrong_step(trace, row["question"]) if config.check_steps else ""
    return (WRONG_STEP, step) if step else PASSED


CHECKS: tuple[Check, ...] = (_empty, _forbidden, _loop, _inconsistent, _wrong_step)


def trace_key(trace: str) -> int:
    """Hash of a trace without its case and white space."""
    return hash_of(" ".join(trace.casefold().split()))


def hash_of(text: str) -> int:
    """64 bits of `text`, signed; the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
