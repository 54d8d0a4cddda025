"""F2, bar charts of real series (vega-datasets): neighbouring values of one series, scaled to 1-9 ticks.

Question: the product of the bars modulo 23. Scaling is by the window's own maximum, with each series' unit and first
row kept in `source_refs`; the unrounded values stand in `difficulty`.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from bimode.records import Sample
from data_curation.families import canvas

QUESTIONS = (
    "multiply the bar heights in the chart ; what is the remainder by 23 ?",
    "take the product of all bar heights ; what is its remainder by 23 ?",
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
    """Numeric columns of the split's data sets with at least 20 finite values, as (reference, values)."""
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


def chart_trace(ticks: list[int]) -> tuple[str, int]:
    """The reasoning for a chart and its answer, each step modulo 23."""
    value, steps = ticks[0], [str(ticks[0])]
    for tick in ticks[1:]:
        value = (value * tick) % canvas.MODULUS
        steps.append(f"x {tick} > {value}")
    return f"look : {len(ticks)} bars : {' '.join(map(str, ticks))} ; then {' '.join(steps)} ; so {value}", value


def bar_chart(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family in `split`."""
    rng = canvas.rng_of("charts", split, seed, index)
    level, count = canvas.draw_operands(rng, weights)
    ref, values = series(split)[int(rng.integers(len(series(split))))]
    first = int(rng.integers(len(values)))
    rows = (first + np.arange(count) * int(rng.integers(1, 8))) % len(values)
    window = values[rows]
    top = max(window.max() * rng.uniform(1.0, 2.5), 1e-9)  # head-room, so that heights spread over all ticks
    ticks = [int(t) for t in np.clip(np.rint(window / top * TICKS), 1, TICKS)]
    image = canvas.blank()
    image[-3:] = 0.4  # the axis
    for bar, tick in enumerate(ticks):
        left = bar * canvas.CELL
        image[canvas.SIDE - 4 - tick * TICK_PIXELS : canvas.SIDE - 4, left + 1 : left + 7] = 0.9
    trace, value = chart_trace(ticks)
    knobs = {"operands": count, "values": [round(float(v), 6) for v in window], "top": round(float(top), 6)}
    return Sample(
        id=f"charts-{split}-{seed}-{index}", question=str(rng.choice(QUESTIONS)), images=(canvas.to_png(image, rng),),
        answer=str(value), trace=trace, transcription=f"{count} bars : {' '.join(map(str, ticks))}", verifier="exact",
        verifier_args="{}", guess_rate=1 / canvas.MODULUS, task="charts", domain="chart", level=level,
        difficulty=json.dumps(knobs), split=split, source="vega-datasets", source_license="MIT",
        source_refs=tuple(f"{ref}/{int(r)}" for r in rows),
    )  # fmt: skip
