"""report.html: one page that needs nothing else: headline in words, figures, tables, and the
responses behind them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bimode.evaluation.routing import ItemResult, Outcome
from bimode.modes import Mode
from bimode.records import Prompt
from bimode.report import number, percent, png_url, render_page
from bimode.storage.run_dir import digest_bytes
from pipelines.report.numbers import LEVELS, Results

MAX_VIEWED = 400  # items in the viewer; a page of more is slow to open
MAX_REFUSED = 50  # refused questions of a model that the page lists; report.json has them all
MAX_SIDE = 512  # pixels; larger pictures are shown reduced
CAPTIONS = {
    "accuracy_tokens": (
        "Accuracy against tokens. A dashed line joins a model's forced modes: a coin between them"
        " lies on it, so auto mode earns its keep by its height above the line. Bars are 95 %"
        " intervals. The routers are the last model's; where points meet, that of the earlier model"
        " is the larger one."
    ),
    "think_rate": (
        "How often auto mode thinks, by difficulty. Easy, mid and hard are the levels of the"
        " questions in the data."
    ),
    "crossover": (
        "Accuracy of each mode by difficulty: where the forced modes part, thinking is worth its"
        " tokens."
    ),
    "bpo_reward": (
        "Mean reward during BPO, all rollouts and by forced mode (five-step mean over the raw"
        " curve)."
    ),
    "bpo_decision": (
        "How often the model chose to think during BPO, by difficulty: its first token decides."
    ),
}
FUNNEL = {"rows": "rows in", "rejects": "rejected as", "tags": "tagged", "formats": "taught as"}

ONE_KIND = {  # where every question has the same tag: what that says
    "thinking": (
        "the evidence says of each question that direct answers are poor, as it does where a model"
        " is hardly ever right in either mode, such as an untrained one"
    ),
    "non_thinking": "the evidence says of each question that direct answers are good enough",
    "either": (
        "the evidence decides for no question: attempts were too few, or thinking did no better"
        " than poor direct answers"
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """What the page says about the run besides its results.

    `counts` is the curation stage's own, empty without one; `bpo` the table that the BPO stage ran
    with, empty likewise; `alarms` those of its metrics.jsonl (`bimode.rl.monitor`).
    """

    name: str
    counts: Mapping[str, Any]
    bpo: Mapping[str, Any] = field(default_factory=dict)
    alarms: Sequence[Mapping[str, Any]] = ()


def render(
    report: Mapping[str, Any],
    results: Results,
    prompts: Sequence[Prompt],
    figures: Mapping[str, str],
    run: Run,
) -> str:
    """The page as HTML. `figures` is SVG by name."""
    return render_page(
        Path(__file__).with_name("page.html.jinja"),
        report=report,
        run=run,
        levels=LEVELS,
        modes=[m.value for m in (Mode.NON_THINKING, Mode.AUTO, Mode.THINKING)],
        headline=headline(report, results),
        by_level=level_rows(results),
        viewer=Markup(viewer_json(results, prompts)),
        figures={name: (Markup(svg), CAPTIONS[name]) for name, svg in figures.items()},
        trained=trained_words(run.bpo),
        funnel=funnel(run.counts),
        tags=tags_words(run.counts.get("tags", {})),
        shown=min(len(prompts), MAX_VIEWED),
        total=len(prompts),
        refused=report["data"].get("refused", {}),
        max_refused=MAX_REFUSED,
    )


def trained_words(bpo: Mapping[str, Any]) -> str:
    """E.g. `algorithm: per_mode, decision: counterfactual, 40 steps`; nothing where no BPO stage is
    known.
    """
    if not bpo:
        return ""
    words = f"algorithm: {bpo['algorithm']}, decision: {bpo['decision']}, {bpo['steps']} steps"
    return words + (", rewards shuffled (control)" if bpo.get("shuffle_rewards") else "")


def tags_words(tags: Mapping[str, int]) -> str:
    """Why all tags are of one kind; nothing where they are not, or nothing was tagged."""
    if len(tags) != 1:
        return ""
    [(kind, n)] = tags.items()
    return f"All {n} tags are {kind}: {ONE_KIND[kind]}."


@dataclass(frozen=True, slots=True)
class Headline:
    """The last model in words: `cards` are (figure, what it is, interval or ``""``)."""

    model: str
    cards: tuple[tuple[str, str, str], ...]
    sentences: tuple[str, ...]


def headline(report: Mapping[str, Any], results: Results) -> Headline:
    """What a reader should take home, about the last model that was run in all three modes."""
    routed = [name for name in results if report["models"][name]["routing"]]
    if not routed:
        name = list(results)[-1]
        parts = [
            f"{percent(at['accuracy'])} right in {mode_name(mode)} mode at"
            f" {number(at['tokens_mean'], 1)} tokens"
            for mode, at in report["models"][name]["overall"].items()
        ]
        return Headline(name, (), (f"{name}: {'; '.join(parts)}.",))
    name = routed[-1]
    numbers, overall = report["models"][name]["routing"], report["models"][name]["overall"]
    where = _where(think_rates(results[name]), overall["auto"]["think_rate"])
    cards = (
        (
            " / ".join(percent(rate) for rate, _ in where),
            "thinks on " + " / on ".join(kind for _, kind in where) + " questions",
            "",
        ),
        (
            percent(numbers["gap_recovery"]),
            "of the thinking gain kept",
            _spread(numbers["gap_recovery_ci95"]),
        ),
        (
            percent(numbers["saving_recovery"]),
            "of an oracle's token saving",
            _spread(numbers["saving_recovery_ci95"]),
        ),
        (percent(numbers["tokens_vs_thinking"]), "of the tokens of always thinking", ""),
    )
    sentences = [_routing_words(name, where, numbers), _accuracy_words(overall)]
    if len(routed) > 1:
        sentences.append(_before_words(routed[-2], results, report))
    return Headline(name, cards, tuple(s for s in sentences if s))


def think_rates(items: Sequence[ItemResult]) -> dict[str, float]:
    """Share of auto responses that think, by level."""
    by_level = {
        level: [i.greedy[Mode.AUTO].thought for i in items if i.level == level] for level in LEVELS
    }
    return {level: sum(found) / len(found) for level, found in by_level.items() if found}


def _where(rates: Mapping[str, float], overall: float) -> list[tuple[float, str]]:
    """Think rates on hard and easy questions, with whose they are; where one of the two is missing,
    that on all.
    """
    ends = [(rates[level], level) for level in ("hard", "easy") if level in rates]
    return ends if len(ends) > 1 else [(overall, "all")]


def _of(where: Sequence[tuple[float, str]], noun: str = "") -> str:
    """E.g. `90 % of the hard questions and 5 % of the easy ones`, or `40 % of all questions`."""
    if len(where) == 1:
        return f"{percent(where[0][0])} of all{noun or ' questions'}"
    (hard, _), (easy, _) = where
    return f"{percent(hard)} of the hard{noun} and {percent(easy)} of the easy ones"


def _routing_words(
    name: str, where: Sequence[tuple[float, str]], numbers: Mapping[str, Any]
) -> str:
    thinks = f"{name} thinks on {_of(where, ' questions')}"
    if numbers["gap_recovery"] is None:
        return (
            f"{thinks}; its thinking mode gains too little over its direct answers to speak of a"
            " share of it."
        )
    return (
        f"{thinks}, and so keeps {percent(numbers['gap_recovery'])} of what thinking gains "
        f"at {percent(numbers['tokens_vs_thinking'])} of the tokens."
    )


def _accuracy_words(overall: Mapping[str, Any]) -> str:
    at = {
        mode: f"{percent(v['accuracy'])} at {number(v['tokens_mean'], 1)}"
        for mode, v in overall.items()
    }
    return (
        f"It is right on {at['auto']} tokens a response; always thinking gives {at['thinking']}, "
        f"never thinking {at['non_thinking']}."
    )


def _before_words(before: str, results: Results, report: Mapping[str, Any]) -> str:
    numbers, overall = report["models"][before]["routing"], report["models"][before]["overall"]
    shares = _of(_where(think_rates(results[before]), overall["auto"]["think_rate"]))
    words = f"The stage before, {before}, thought on {shares}"
    if numbers["gap_recovery"] is None:
        return words + "."
    kept, spent = percent(numbers["gap_recovery"]), percent(numbers["tokens_vs_thinking"])
    return f"{words} and kept {kept} of the gain at {spent} of the tokens."


def mode_name(mode: str) -> str:
    """The name of a mode as a reader sees it, e.g. `non-thinking`."""
    return mode.replace("_", "-")


def _spread(interval: Sequence[float] | None) -> str:
    return f"95 % interval {100 * interval[0]:.0f} to {100 * interval[1]:.0f}" if interval else ""


@dataclass(frozen=True, slots=True)
class LevelRow:
    """A row of the table model x mode x level: (n, accuracy, tokens, think rate) per level."""

    model: str
    mode: str
    cells: tuple[tuple[int, float, float, float], ...]


def level_rows(results: Results) -> list[LevelRow]:
    """All families together, by model, mode and level; empty where the data knows no levels."""
    rows: list[LevelRow] = []
    if not any(item.level in LEVELS for items in results.values() for item in items):
        return rows
    for name, items in results.items():
        for mode in (
            m for m in (Mode.NON_THINKING, Mode.AUTO, Mode.THINKING) if m in items[0].greedy
        ):
            by_level = [[i.greedy[mode] for i in items if i.level == level] for level in LEVELS]
            rows.append(LevelRow(name, mode.value, tuple(map(_cell, by_level))))
    return rows


def _cell(found: Sequence[Outcome]) -> tuple[int, float, float, float]:
    if not found:
        return 0, 0.0, 0.0, 0.0
    n = len(found)
    correct = sum(outcome.correct for outcome in found)
    tokens = sum(outcome.tokens for outcome in found)
    thought = sum(outcome.thought for outcome in found)
    return n, correct / n, tokens / n, thought / n


def funnel(counts: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """What became of the questions, from the counts of curation: each with its share of the largest
    of its group.
    """
    groups = [(words, counts.get(key, {})) for key, words in FUNNEL.items()]
    return [
        (f"{words} · {name}", n, n / max(1, *group.values()))
        for words, group in groups
        for name, n in group.items()
    ]


def viewer_json(results: Results, prompts: Sequence[Prompt]) -> str:
    """Items with pictures and responses as JSON that is safe inside a script element."""
    chosen = sorted(
        sorted(prompts, key=lambda p: digest_bytes(p.id.encode()))[:MAX_VIEWED], key=lambda p: p.id
    )
    found = {name: {item.id: item for item in items} for name, items in results.items()}
    payload = {
        "models": list(results),
        "items": [
            {
                "id": prompt.id,
                "task": prompt.task,
                "level": prompt.level,
                "question": prompt.question,
                "answer": prompt.answer,
                "images": [_data_url(image) for image in prompt.images],
                "responses": {name: _responses(by_id[prompt.id]) for name, by_id in found.items()},
            }
            for prompt in chosen
        ],
    }
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _responses(item: ItemResult) -> dict[str, list[Any]]:
    """[correct, tokens, thought, text] by mode."""
    return {
        mode.value: [int(o.correct), o.tokens, int(o.thought), o.text]
        for mode, o in item.greedy.items()
    }


def _data_url(image: bytes) -> str:
    """The picture as the model sees it, reduced to what a page has room for."""
    from bimode.inputs.pictures import PictureError, open_picture

    try:
        shown, buffer = open_picture(image), io.BytesIO()
    except PictureError:
        return "data:,"
    shown.thumbnail((MAX_SIDE, MAX_SIDE))
    shown.save(buffer, format="PNG")
    return png_url(buffer.getvalue())
