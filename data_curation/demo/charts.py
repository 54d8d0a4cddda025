"""F2, bar charts of real series (vega-datasets): a few values of one series, each drawn at its rank
within the series.

Question: the bars from left to right, times and plus in turn, modulo 23. (A plain product is a sum
of logarithms, which a model learns to guess directly.) A bar's height is the value's ninth of the
series (1 = lowest ninth, 9 = highest), so that all heights are equally likely whatever the series'
shape; scaling by the maximum makes most bars equal, and equal bars can be answered without looking.
The raw values stand in `difficulty`, series and rows in `source_refs`.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import cycle

import numpy as np

from bimode.records import Sample
from data_curation.demo import canvas

QUESTIONS = (
    "take the bar heights from left to right , x then + then x ; what is the remainder by 23 ?",
    "work out the bars from left to right , x then + then x ; what is its remainder by 23 ?",
)
TICKS = 9
TICK_PIXELS = 4
# Which data sets feed which split; a series never crosses.
SPLIT_DATASETS = {
    "base": ("us_employment", "sf_temps", "airports"),
    "train": ("cars", "stocks", "driving", "iowa_electricity", "ohlc"),
    "rl": ("la_riots", "crimea", "burtin", "iris"),
    "eval": ("seattle_weather", "barley", "wheat", "seattle_temps"),
}


@cache
def series(split: str) -> tuple[tuple[str, np.ndarray], ...]:
    """Numeric columns of the split's data sets with at least 20 finite values, as (reference,
    values).
    """
    from vega_datasets import local_data

    found = []
    for name in SPLIT_DATASETS[split]:
        frame = getattr(local_data, name)()
        for column in frame.select_dtypes("number").columns:
            values = frame[column].to_numpy(dtype=float)
            values = np.abs(values[np.isfinite(values)])
            if len(values) >= 20 and np.ptp(values) > 0:
                found.append((f"vega/{name}/{column}", values))
    return tuple(found)


def ninth(values: np.ndarray, row: int) -> int:
    """Which ninth of its series the value at `row` belongs to, 1 to 9; equal values share their
    middle rank.
    """
    rank = (values < values[row]).mean() + 0.5 * (values == values[row]).mean()
    return min(int(rank * TICKS) + 1, TICKS)


def chart_trace(ticks: list[int]) -> tuple[str, int]:
    """The reasoning for a chart and its answer, each step modulo 23: ``((a x b) + c) x d``."""
    value, steps = ticks[0], [str(ticks[0])]
    for operator, tick in zip(cycle("x+"), ticks[1:]):
        value = (value * tick if operator == "x" else value + tick) % canvas.MODULUS
        steps.append(f"{operator} {tick} > {value}")
    read = f"look : {len(ticks)} bars : {' '.join(map(str, ticks))}"
    return f"{read} ; then {' '.join(steps)} ; so {value}", value


@cache
def guess_rate(level: str) -> float:
    """How often the best blind answer is right; all heights are equally likely."""
    ticks = range(1, TICKS + 1)
    return canvas.best_blind(
        level, ticks, lambda k, value: [value + tick if k % 2 else value * tick for tick in ticks]
    )


def bar_chart(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family in `split`."""
    rng = canvas.rng_of("charts", split, seed, index)
    level, count = canvas.draw_operands(rng, weights)
    ref, values = series(split)[int(rng.integers(len(series(split))))]
    rows = rng.choice(len(values), count, replace=False)
    ticks = [ninth(values, int(row)) for row in rows]
    image = canvas.blank()
    image[-3:] = 0.4  # the axis
    for bar, tick in enumerate(ticks):
        left = bar * canvas.CELL
        image[canvas.SIDE - 4 - tick * TICK_PIXELS : canvas.SIDE - 4, left + 1 : left + 7] = 0.9
    trace, value = chart_trace(ticks)
    knobs = {"operands": count, "values": [round(float(values[row]), 6) for row in rows]}
    return canvas.make_sample(
        "charts",
        index,
        split,
        seed,
        question=str(rng.choice(QUESTIONS)),
        images=(canvas.to_png(image, rng),),
        answer=str(value),
        trace=trace,
        transcription=f"{count} bars : {' '.join(map(str, ticks))}",
        guess_rate=guess_rate(level),
        domain="chart",
        level=level,
        difficulty=json.dumps(knobs),
        source="vega-datasets",
        source_license="MIT",
        source_refs=tuple(f"{ref}/{int(r)}" for r in rows),
    )
