"""One function a kind of defect: a sound record in, a damaged one out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.defect_data import pictures
from benchmarks.defect_data.questions import (
    FOREIGN_PICTURE,
    FOREIGN_TEXT,
    LANGUAGES,
    LOOPS,
    STOCK_TRACES,
    WRONG_TYPES,
    pick,
)
from benchmarks.defect_data.record import LEFT_OUT, Record
from benchmarks.defect_data.variants import answered
from benchmarks.defect_data.words import NAMES

Damage = Callable[[Record, np.random.Generator], Record]
STEP = re.compile(r"(?<=[>=] )\d+")  # the value that a step of a trace comes to
CONCLUSION = re.compile(r"(?:(?<=so )|(?<=The answer is ))\d+")


def with_image(make: Callable[[np.random.Generator], bytes]) -> Damage:
    """Puts a file of `make` where the picture was."""
    return lambda record, rng: replace(record, image=make(rng))


def truncated_image(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, image=pictures.truncated(record.image or b"", rng))


def null_field(record: Record, rng: np.random.Generator) -> Record:
    return _changed(record, pick(rng, ("question", "answer")), None)


def missing_field(record: Record, rng: np.random.Generator) -> Record:
    return _changed(record, pick(rng, ("question", "answer")), LEFT_OUT)


def field_type(record: Record, rng: np.random.Generator) -> Record:
    """A list or an object where a text belongs, an object or a number where pictures do."""
    cases: tuple[tuple[str, Any], ...] = (
        ("question", [record.question]),
        ("question", {"text": record.question}),
        ("answer", {"value": record.answer}),
        ("answer", [[record.answer], []]),
        ("images", 17),
        ("images", {"width": 40, "height": 40}),
    )
    return _changed(record, *cases[int(rng.integers(len(cases)))])


def broken_line(record: Record, rng: np.random.Generator) -> Record:
    """A line that is cut off, no JSON at all, or JSON that is no object."""
    whole = f'{{"uid": "{record.key}", "query": "{record.question}", "label": "{record.answer}"}}'
    lines = (
        whole[: int(rng.integers(10, len(whole) - 1))],
        f"{record.key};{record.question}",
        f'["{record.key}"]',
        "null",
    )
    return replace(record, line=pick(rng, lines))


def blank_question(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, question=pick(rng, ("", "   ", "\n\t", "\u3000")))


def long_question(record: Record, rng: np.random.Generator) -> Record:
    """As when a whole page was copied: 9,000 characters and more."""
    return replace(
        record,
        question=" ".join(
            [record.question, *(f"{pick(rng, tuple(NAMES))} {n} ," for n in range(1200))]
        ),
    )


def long_answer(record: Record, rng: np.random.Generator) -> Record:
    """More characters than a verifier reads."""
    return replace(record, answer=" ".join(str(n) for n in rng.integers(0, 1000, 900)))


def answer_type(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, answer=pick(rng, WRONG_TYPES).replace("{}", record.answer))


def foreign(record: Record, rng: np.random.Generator) -> Record:
    """The question in another language; a text becomes a little story."""
    language = pick(rng, LANGUAGES)
    if record.task in FOREIGN_PICTURE[language]:
        return replace(record, question=FOREIGN_PICTURE[language][record.task])
    a, b, c = (int(n) for n in rng.integers(5, 60, 3))
    question = pick(rng, FOREIGN_TEXT[language]).format(name=pick(rng, tuple(NAMES)), a=a, b=b, c=c)
    answer = a * b - c
    return replace(
        record,
        question=question,
        answer=str(answer),
        trace=f"First {a} x {b} = {a * b}, then {a * b} - {c} = {answer}.",
    )


def empty_trace(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, trace=pick(rng, ("", " ", "\n\n")))


def stock_trace(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, trace=pick(rng, STOCK_TRACES))


def looping_trace(record: Record, rng: np.random.Generator) -> Record:
    """A phrase, or the trace itself, over and over before the conclusion."""
    phrase = pick(rng, LOOPS) if rng.random() < 0.7 else record.trace
    loops = [phrase.replace("{}", str(n)) for n in range(2, int(rng.integers(12, 40)))]
    return replace(record, trace=" ".join([record.trace, *loops, f"so {record.answer}"]))


def wrong_step(record: Record, rng: np.random.Generator) -> Record:
    """A step before the last comes to another value; what follows goes on from the right one."""
    steps = list(STEP.finditer(record.trace))[:-1]
    at = steps[int(rng.integers(len(steps)))]
    return replace(record, trace=_put(record.trace, at, other_value(at[0], rng)))


def wrong_steps_and_answer(record: Record, rng: np.random.Generator) -> Record:
    """The last step is wrong, and conclusion and answer follow from it."""
    wrong = other_value(record.answer, rng)
    last = list(STEP.finditer(record.trace))[-1]
    trace = _put(record.trace, last, wrong)
    return replace(record, trace=CONCLUSION.sub(wrong, trace), answer=wrong)


def wrong_answer(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, answer=other_value(record.answer, rng))


def wrong_conclusion(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, trace=CONCLUSION.sub(other_value(record.answer, rng), record.trace))


def wrong_reading(record: Record, rng: np.random.Generator) -> Record:
    """One glyph or bar is read wrongly; trace and answer follow from it without an error."""
    while True:
        values = record.values
        at = int(rng.choice([i for i, value in enumerate(values) if value.isdigit()]))
        values[at] = str(rng.integers(1, 10))
        read = answered(record, values)
        if read.answer != record.answer:
            return read


def mislabeled_mode(record: Record, rng: np.random.Generator) -> Record:
    return replace(record, mode="non_thinking" if record.pays == "thinking" else "thinking")


def other_value(value: str, rng: np.random.Generator) -> str:
    """Another number, below 23 where `value` is."""
    most = max(int(value) + 10, 23) if int(value) >= 23 else 23
    return str(rng.choice([n for n in range(most) if n != int(value)]))


def _changed(record: Record, name: str, value: Any) -> Record:
    return replace(record, changed=((name, value),))


def _put(text: str, at: re.Match[str], new: str) -> str:
    return text[: at.start()] + new + text[at.end() :]


PICTURED: dict[str, Damage] = {  # of rows with a picture
    "truncated_image": truncated_image,
    "random_image": with_image(pictures.random_bytes),
    "no_picture": with_image(pictures.no_picture),
    "empty_image": with_image(lambda rng: b""),
    "lost_image": lambda record, rng: _changed(
        record, "images", [f"pictures/lost-{record.key}.png"]
    ),
    "bomb_image": with_image(pictures.bomb),
    "odd_size_image": with_image(pictures.odd_size),
    "wrong_reading": wrong_reading,
}
REASONED: dict[str, Damage] = {  # of rows whose trace has two steps and more
    "wrong_step": wrong_step,
    "wrong_steps_and_answer": wrong_steps_and_answer,
}
DAMAGE: dict[str, Damage] = {
    "null_field": null_field,
    "missing_field": missing_field,
    "field_type": field_type,
    "broken_line": broken_line,
    "blank_question": blank_question,
    "long_question": long_question,
    "long_answer": long_answer,
    "answer_type": answer_type,
    "foreign": foreign,
    "looping_trace": looping_trace,
    "empty_trace": empty_trace,
    "stock_trace": stock_trace,
    "wrong_answer": wrong_answer,
    "wrong_conclusion": wrong_conclusion,
    "mislabeled_mode": mislabeled_mode,
}
