"""Figures of a report: each a PNG file, and an SVG whose ink is `currentColor`, for light and dark
pages.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimode.evaluation.routing import ItemResult
from bimode.evaluation.statistics import wilson
from bimode.modes import Mode
from bimode.rl.metrics import ALL_LEVELS
from pipelines.report.numbers import LEVELS, Results

WIDE = (8.6, 3.9)  # inches
# A legend above the axes, clear of every curve.
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 3}
FLAT = 0.02  # of rewards, which would fill the picture with noise, or with rewards below 0
DOTTED = 4  # points of a curve below which each is shown: a line through one is none
INK = "#123457"  # stands for the page's own text color in the SVG
MODE_MARKERS = {Mode.NON_THINKING: "s", Mode.AUTO: "o", Mode.THINKING: "^"}
MODE_COLORS = {Mode.NON_THINKING: "#2a9d8f", Mode.AUTO: "#3b6fe0", Mode.THINKING: "#e07a3b"}
MODEL_COLORS = {"base": "#9aa0a8", "anneal": "#d99a2b", "bpo": "#3b6fe0"}
SPARE_COLORS = ("#8a63d2", "#2a9d8f", "#d1495b", "#5c7f2b")
LEVEL_COLORS = {"easy": "#2a9d8f", "mid": "#d99a2b", "hard": "#d1495b"}
STYLE = {
    "figure.figsize": (5.2, 3.3),
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "lines.linewidth": 1.8,
    "axes.axisbelow": True,
}


def draw(
    results: Results, report: Mapping[str, Any], metrics: Path | None, folder: Path
) -> dict[str, str]:
    """Writes ``<name>.png`` for every figure that has data into `folder`; returns SVG by name."""
    figures: dict[str, Callable[[Any], None]] = {}
    complete = {
        name: items
        for name, items in results.items()
        if report["models"][name]["routing"] is not None
    }
    if complete:
        last = list(complete)[-1]
        figures["accuracy_tokens"] = lambda axes: _accuracy_tokens(axes, complete, report)
    if any(item.level in LEVELS for items in complete.values() for item in items):
        figures["think_rate"] = lambda axes: _think_rate(axes, complete)
        figures["crossover"] = lambda axes: _crossover(axes, complete[last], last)
    steps = read_metrics(metrics)
    if any("reward" in step for step in steps):
        figures["bpo_reward"] = lambda axes: _rewards(axes, steps)
    if any("decision" in step for step in steps):
        figures["bpo_decision"] = lambda axes: _decisions(axes, steps)
    return {name: _render(name, fill, folder / f"{name}.png") for name, fill in figures.items()}


def read_metrics(path: Path | None) -> list[dict[str, Any]]:
    """BPO's metrics.jsonl; a torn last line of a run that was stopped is left out."""
    if path is None or not path.is_file():
        return []
    steps = []
    for line in path.read_text().splitlines():
        try:
            steps.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [step for step in steps if "step" in step]


def model_color(name: str, index: int) -> str:
    """One color a model in every figure."""
    return MODEL_COLORS.get(name, SPARE_COLORS[index % len(SPARE_COLORS)])


def short(name: str, most: int = 24) -> str:
    """The end of a model's name, where two differ; a legend of whole paths would leave no room for
    the picture.
    """
    return name if len(name) <= most else "\N{HORIZONTAL ELLIPSIS}" + name[1 - most :]


def _accuracy_tokens(axes: Any, results: Results, report: Mapping[str, Any]) -> None:
    """Draw every model in every mode, and the routers of the last model.

    Models that share a point stay apart: earlier ones are larger, and forced modes are hollow.
    """
    for index, name in enumerate(results):
        size = 7 + 4 * (len(results) - 1 - index)
        overall = report["models"][name]["overall"]
        _model_points(axes, overall, short(name), model_color(name, index), size)
    for mode, marker in MODE_MARKERS.items():
        _point(axes, [], [], marker, mode.value.replace("_", "-"), filled=mode is Mode.AUTO)
    axes.plot([], [], "--", color=INK, lw=1, alpha=0.6, label="a coin between the modes")
    last = report["models"][list(results)[-1]]["routing"]["baselines_detail"]
    for router, marker, size in (("question_only", "x", 9), ("oracle", "*", 14)):
        x, y = last[router]["tokens_mean"], last[router]["accuracy"]
        _point(axes, x, y, marker, f"{router.replace('_', ' ')} router", size)
    axes.set(xlabel="tokens a response (mean)", ylabel="accuracy", ylim=(-0.02, 1.04))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _model_points(
    axes: Any, overall: Mapping[str, Any], label: str, color: str, size: float
) -> None:
    """Draw one model: its modes with their intervals, and a line between its forced modes."""
    ends = [overall[mode.value] for mode in (Mode.NON_THINKING, Mode.THINKING)]
    tokens = [end["tokens_mean"] for end in ends]
    axes.plot(tokens, [end["accuracy"] for end in ends], "--", color=color, lw=1, alpha=0.6)
    for mode, marker in MODE_MARKERS.items():
        numbers = overall[mode.value]
        accuracy = numbers["accuracy"]
        low, high = numbers["accuracy_ci95"]
        look = {"mfc": color, "mew": 0} if mode is Mode.AUTO else {"mfc": "none", "mew": 1.8}
        axes.errorbar(
            numbers["tokens_mean"],
            accuracy,
            [[accuracy - low], [high - accuracy]],
            fmt=marker,
            color=color,
            ms=size,
            elinewidth=1,
            clip_on=False,
            **look,
        )
    axes.plot([], [], "o", color=color, ms=7, label=label)


def _point(
    axes: Any, x: Any, y: Any, marker: str, label: str, size: float = 7, filled: bool = False
) -> None:
    """Draw one mark in ink with its line of the legend; no coordinates give the line alone."""
    fill = INK if filled else "none"
    axes.plot(x, y, marker, color=INK, mfc=fill, ms=size, label=label, ls="none", zorder=4)


def _think_rate(axes: Any, results: Results) -> None:
    for index, (name, items) in enumerate(results.items()):
        look = Look(short(name), model_color(name, index), shift=0.07 * (index - 1))
        _by_level(axes, items, lambda i: i.greedy[Mode.AUTO].thought, look)
    axes.set(ylabel="thinks in auto mode", ylim=(-0.03, 1.04))
    axes.legend(**ABOVE)


def _correct_in(mode: Mode) -> Callable[[ItemResult], bool]:
    """Reads whether an item was right in `mode`."""
    return lambda item: item.greedy[mode].correct


def _value_at(*keys: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Reads a nested value of a step's metrics, None where a key is missing."""

    def read(step: Mapping[str, Any]) -> float | None:
        at: Any = step
        for key in keys:
            at = at.get(key) if isinstance(at, Mapping) else None
        return at

    return read


def _crossover(axes: Any, items: Sequence[ItemResult], name: str) -> None:
    for shift, (mode, marker) in enumerate(MODE_MARKERS.items()):
        look = Look(mode.value.replace("_", "-"), MODE_COLORS[mode], marker, 0.05 * (shift - 1))
        _by_level(axes, items, _correct_in(mode), look)
    axes.set(ylabel=f"accuracy of {short(name)}", ylim=(-0.03, 1.04))
    axes.legend(**ABOVE)


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn; `shift` keeps series apart that share their x."""

    label: str
    color: str
    marker: str = "o"
    shift: float = 0.0


def _by_level(
    axes: Any, items: Sequence[ItemResult], value: Callable[[ItemResult], bool], look: Look
) -> None:
    """A share by difficulty with Wilson's interval."""
    ticks, shares, below, above = [], [], [], []
    for level in LEVELS:
        outcomes = [value(item) for item in items if item.level == level]
        if not outcomes:
            continue
        share = sum(outcomes) / len(outcomes)
        low, high = wilson(sum(outcomes), len(outcomes))
        ticks.append(f"{level}\nn = {len(outcomes)}")
        shares.append(share)
        below.append(max(0.0, share - low))
        above.append(max(0.0, high - share))
    axes.errorbar(
        [i + look.shift for i in range(len(ticks))],
        shares,
        [below, above],
        fmt=f"{look.marker}-",
        color=look.color,
        capsize=3,
        label=look.label,
    )
    axes.set_xticks(range(len(ticks)), ticks)


def _rewards(axes: Any, steps: Sequence[Mapping[str, Any]]) -> None:
    _curve(axes, steps, lambda s: s.get("reward"), Look("all rollouts", INK))
    for mode in (Mode.THINKING, Mode.NON_THINKING):
        look = Look(mode.value.replace("_", "-"), MODE_COLORS[mode])
        _curve(axes, steps, _value_at("modes", mode.value, ALL_LEVELS, "reward"), look)
    axes.set(xlabel="BPO step", ylabel="mean reward")
    if axes.dataLim.height < FLAT:
        axes.set_ylim(-0.03, 1.04)
    axes.legend(**ABOVE)


def _decisions(axes: Any, steps: Sequence[Mapping[str, Any]]) -> None:
    for level, color in (LEVEL_COLORS | {ALL_LEVELS: INK}).items():
        _curve(axes, steps, _value_at("decision", level), Look(level, color))
    axes.set(xlabel="BPO step", ylabel="share of first tokens that think", ylim=(-0.03, 1.04))
    axes.legend(**ABOVE)


def _curve(
    axes: Any, steps: Sequence[Mapping[str, Any]], value: Callable[[Any], float | None], look: Look
) -> None:
    """The raw series, faint, under its running mean of five; steps that lack the value are left
    out, and few have dots.
    """
    xs, ys = [], []
    for step in steps:
        y = value(step)
        if y is not None:
            xs.append(step["step"])
            ys.append(float(y))
    if not xs:
        return
    windows = [ys[max(0, i - 4) : i + 1] for i in range(len(ys))]
    smooth = [sum(window) / len(window) for window in windows]
    axes.plot(xs, ys, color=look.color, alpha=0.25, lw=1)
    axes.plot(
        xs,
        smooth,
        marker=look.marker if len(xs) < DOTTED else "",
        color=look.color,
        label=look.label,
    )
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # there is no step 0.5


@contextmanager
def _canvas(name: str, size: tuple[float, float] | None) -> Iterator[tuple[Any, Any]]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure, axes = plt.subplots(layout="constrained", figsize=size)
        yield figure, axes
        plt.close(figure)


def _render(name: str, fill: Callable[[Any], None], png: Path) -> str:
    """Draws once; PNG on white to `png`, SVG on nothing returned. No dates, so equal numbers give
    equal bytes.
    """
    with _canvas(name, WIDE if name == "accuracy_tokens" else None) as (figure, axes):
        fill(axes)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
        figure.savefig(png, metadata={"Software": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(width|height)="[\d.]+pt" ', "", svg, count=2)
    return re.sub(r'\b(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
