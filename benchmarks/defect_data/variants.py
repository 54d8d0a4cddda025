"""Rows that resemble another and are none of its copies: another picture, another question, other
numbers. All must stay.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.defect_data.pictures import decode, encode
from benchmarks.defect_data.problems import renumbered
from benchmarks.defect_data.questions import OTHER, pick
from benchmarks.defect_data.record import Record
from data_curation.demo import canvas
from data_curation.demo.arithmetic import arithmetic_trace
from data_curation.demo.charts import TICK_PIXELS, TICKS, chart_trace
from data_curation.demo.digits import draw_glyph, strip_trace

NOISE = 0.03  # of 1, as the families have it


def element_changed(record: Record, rng: np.random.Generator) -> Record:
    """One digit, or one bar, is another; question as before, answer as it then is."""
    values = record.values
    at = int(rng.choice([i for i, value in enumerate(values) if value.isdigit()]))
    choices = [str(n) for n in range(1, 10) if str(n) != values[at]]
    values[at] = choices[int(rng.integers(len(choices)))]
    ink = (
        draw_bar(int(values[at]))
        if record.task == "charts"
        else draw_glyph(rng, record.split, int(values[at]))[0]
    )
    return answered(replace(record, image=overwritten(record, at, ink, rng)), values)


def elements_swapped(record: Record, rng: np.random.Generator) -> Record:
    """The first two bars change places, or the first two numbers of a sum or product: question and
    answer as before.
    """
    values = record.values
    other = 1 if record.task == "charts" else 2
    assert can_swap(record)
    values[0], values[other] = values[other], values[0]
    pixels = np.array(decode(record.image or b""))
    first, second = box(record, 0), box(record, other)
    pixels[first], pixels[second] = pixels[second].copy(), pixels[first].copy()
    return answered(replace(record, image=encode(Image.fromarray(pixels))), values)


def can_swap(record: Record) -> bool:
    """Whether `elements_swapped` makes another picture with the same answer."""
    values = record.values
    if record.task == "charts":
        return len(values) > 1 and values[0] != values[1]
    return (
        record.task == "arithmetic"
        and len(values) > 2
        and values[1] in "+x"
        and values[0] != values[2]
    )


def other_handwriting(record: Record, rng: np.random.Generator) -> Record:
    """The same digits written by other hands."""
    assert record.task != "charts"
    image = canvas.blank()
    for cell, value in enumerate(record.values):
        ink = (
            draw_glyph(rng, record.split, int(value))[0]
            if value.isdigit()
            else canvas.operator_glyph(value)
        )
        canvas.put(image, cell, ink)
    return replace(record, image=canvas.to_png(image, rng, NOISE))


def other_question(record: Record, rng: np.random.Generator) -> Record:
    """The same picture, and something else is asked."""
    asked = pick(rng, tuple(OTHER[record.task]))
    numbers = [value for value in record.values if value.isdigit()]
    answer = str(len(numbers)) if asked == "count" else numbers[0]
    look = record.trace.partition(" ; then ")[0]
    return replace(
        record,
        question=OTHER[record.task][asked],
        answer=answer,
        trace=f"{look} ; so {answer}",
        level="easy",
    )


def other_numbers(record: Record, rng: np.random.Generator, how_many: int) -> Record:
    """The same story with `how_many` other numbers and another answer."""
    assert record.problem
    made = renumbered(record.problem, rng, how_many)
    return replace(
        record, question=made.question, answer=made.answer, trace=made.trace, problem=made
    )


def answered(record: Record, values: list[str]) -> Record:
    """`record`, which now shows `values`, with the trace and answer that follow."""
    numbers = [int(value) for value in values if value.isdigit()]
    if record.task == "charts":
        trace, answer = chart_trace(numbers)
    elif record.task == "digits":
        trace, answer = strip_trace(numbers)
    else:
        trace, answer = arithmetic_trace(numbers, values[1::2])
    shown = f"{record.shown.partition(' : ')[0]} : {' '.join(values)}"
    return replace(record, trace=trace, answer=str(answer), shown=shown)


def box(record: Record, at: int) -> tuple[slice, slice]:
    """The pixels of element `at`: a column of a chart, without its axis, or a cell."""
    if record.task == "charts":
        return slice(0, canvas.SIDE - 3), slice(at * canvas.CELL, (at + 1) * canvas.CELL)
    row, column = divmod(at, canvas.GRID)
    size = canvas.CELL
    return slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)


def overwritten(record: Record, at: int, ink: np.ndarray, rng: np.random.Generator) -> bytes:
    """The picture with `ink` in the place of element `at`, as bright and as noisy as the rest."""
    pixels = np.array(decode(record.image or b""))
    where = box(record, at)
    bright = ink * rng.uniform(0.75, 1.0) + rng.normal(0.0, NOISE, ink.shape)
    pixels[where] = np.clip(np.rint(bright * 255), 0, 255).astype(np.uint8)
    return encode(Image.fromarray(pixels))


def draw_bar(tick: int) -> np.ndarray:
    """The column of a bar of height `tick` (1 to 9) above the axis."""
    assert 1 <= tick <= TICKS
    column = np.zeros((canvas.SIDE - 3, canvas.CELL), dtype=np.float32)
    column[canvas.SIDE - 4 - tick * TICK_PIXELS : canvas.SIDE - 4, 1:7] = 0.9
    return column
