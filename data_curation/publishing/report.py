"""report.html of a curation: what went in, what came out and why, how it was tagged, what the rows
look like and what it cost.

One page that needs nothing else: no script, no request. Pictures are reduced, so that it opens on a
phone whatever the images.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from markupsafe import Markup, escape

from bimode.report import render_page
from bimode.storage.run_dir import read_json
from data_curation.checks.validate import REASONS
from data_curation.parquet_sql import parquet
from data_curation.publishing.funnel import funnel, source_counts
from data_curation.publishing.publish import IN, TAGGED
from data_curation.publishing.published import Published
from data_curation.publishing.samples import pick
from data_curation.publishing.wording import RULES, short
from data_curation.store import Store

MODES = ("thinking", "either", "non_thinking")
LEVELS = ("easy", "mid", "hard")
KEPT_SAMPLES, REJECTED_SAMPLES = 6, 3  # of each mode; of each reason
MOST_LINES = 60  # of a table by task; a page of more is not read


@dataclass(frozen=True, slots=True)
class Cost:
    """What a cache of model output holds, e.g. ``Cost("rollouts", "3fa1..", replies=9600,
    tokens=310_000, failed=0)``.
    """

    kind: str  # rollouts, or what else was asked of a model
    params_hash: str
    replies: int
    tokens: int
    failed: int


@dataclass(frozen=True, slots=True)
class Version:
    """An earlier version, e.g. ``Version("0003", "2026-01-31 04:00", {"train": 600}, {"duplicate":
    3}, seconds=41.5)``.
    """

    name: str
    started: str  # UTC
    rows: Mapping[str, int]
    rejects: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class ReportContext:
    """Facts of the pipeline beside the rows; a missing one is not shown on the page."""

    title: str = "Curation"
    eval_items: int = 0  # evaluation items that rows were compared with
    eval_too_short: int = 0  # those of them without enough words for n-grams
    costs: tuple[Cost, ...] = ()
    versions: tuple[Version, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_costs(cache: Path) -> tuple[Cost, ...]:
    """What the caches below DIR/cache hold of model output, over all runs in DIR."""
    parts = sorted(cache.glob("*/*/part-*.parquet"))
    if not parts:
        return ()
    query = (
        "SELECT split_part(filename, '/', -3) AS kind, split_part(filename, '/', -2) AS"
        " params_hash, count(*), sum(num_tokens)::BIGINT, count(*) FILTER (error <> '') FROM"
        f" {parquet(parts, 'filename = true', 'union_by_name = true')} GROUP BY ALL ORDER BY ALL"
    )
    with duckdb.connect() as db:
        return tuple(Cost(*row) for row in db.execute(query).fetchall())


def read_versions(stage: Path) -> tuple[Version, ...]:
    """The versions that DIR/curate holds, the newest first; none is whole without its manifest."""
    found = []
    for folder in sorted((stage / "versions").glob("[0-9]*"), reverse=True):
        if entry := read_json(folder / "manifest.json"):
            started = datetime.fromtimestamp(entry["started"], UTC).strftime("%Y-%m-%d %H:%M")
            counts = entry["counts"]
            found.append(
                Version(folder.name, started, counts["rows"], counts["rejects"], entry["seconds"])
            )
    return tuple(found)


def render(store: Store, published: Published, facts: ReportContext = ReportContext()) -> str:
    """The page as HTML."""
    train = f"{IN} AND split = 'train'"
    models = store.counts(["rollout_params_hash", "rollout_model"], TAGGED)
    return render_page(
        Path(__file__).with_name("report.jinja"),
        {"short": short, "clip": clip, "code": code, "number": "{:,}".format},
        facts=facts,
        published=published,
        steps=funnel(store.counts(["reason"])),
        reasons=REASONS,
        questions=store.counts(["split"], IN),
        sources=source_counts(store),
        modes=MODES,
        rules=RULES,
        tag_lines=tag_lines(store),
        by_rule=store.counts(["mode", "tag_rule"], TAGGED),
        rates=pass_rates(store),
        untagged=store.counts(["mode_reason"], train).get("untagged", 0),
        most_lines=MOST_LINES,
        models=dict(models.keys()),
        kept=pick(store, train, "mode", KEPT_SAMPLES),
        rejected=pick(store, "reason <> ''", "reason", REJECTED_SAMPLES),
    )


def tag_lines(store: Store) -> list[tuple[str, str, Mapping[str, int]]]:
    """(task, level, questions by tag) of what was tagged; levels from easy to hard."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for (task, level, mode), n in store.counts(["task", "level", "mode"], TAGGED).items():
        counts.setdefault((task or "", level or ""), Counter())[mode] += n
    order = {level: at for at, level in enumerate(LEVELS)}
    lines = sorted(
        counts.items(), key=lambda item: (item[0][0], order.get(item[0][1], len(order)), item[0][1])
    )
    return [(*key, of_key) for key, of_key in lines]


def pass_rates(store: Store) -> list[tuple[str, int, int]]:
    """("3/8", questions with 3 of 8 direct attempts right, and with 3 of 8 right with reasoning),
    from none to all.
    """
    where = f"{TAGGED} AND mode_reason = 'pass_rate'"
    bars: dict[tuple[float, int, int], list[int]] = {}
    for at, column in enumerate(("n_pass_non_thinking", "n_pass_thinking")):
        for (n, k), questions in store.counts(["n_rollouts", column], where).items():
            for each in range(n + 1):
                bars.setdefault((each / n, each, n), [0, 0])
            bars[k / n, k, n][at] += questions
    return [(f"{k}/{n}", direct, think) for (_, k, n), (direct, think) in sorted(bars.items())]


def clip(text: str, most: int) -> str:
    """The beginning of a text of several lines."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def code(text: str) -> Markup:
    """Escaped, with what stands in backticks as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))
