"""`bimode explain DIR ID`: the whole story of one question, kept or rejected, as text (from
`data_curation.publishing.row_history`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bimode.evaluation.percent import percent
from bimode.inputs.control_characters import printable
from data_curation.publishing.wording import RULES, short

if TYPE_CHECKING:
    from data_curation.publishing.lookup import Neighbour
    from data_curation.publishing.row_history import Attempt, RowHistory

LONG, SHORT, LINE = (
    1200,
    240,
    100,
)  # characters of a text on the screen: the question, an answer, a neighbour
Fields = Iterator[tuple[str, str]]


def explain_run(run: Path, wanted: str) -> None:
    """Prints the story of `wanted` in the run directory `run`. Raises ConfigError where there is
    none.
    """
    from data_curation.publishing.row_history import load_history

    story = load_history(run, wanted)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(headline(story))
    out = "rejected" if story.rows[0].reason else "another row of this id is rejected"
    for title, fields in (
        ("found", found(story)),
        ("question", question(story)),
        ("source", source(story)),
        (out, rejected(story)),
        ("same as", same(story)),
        ("contamination", contamination(story)),
        ("tag", tag(story)),
        ("written as", written(story)),
        ("BPO", trained(story)),
    ):
        if lines := [line for line in fields if line[1]]:
            print_section(console, title, grid(lines))
    for title, attempts in by_cache(story.attempts):
        print_section(console, title, attempt_table(attempts))


def print_section(console: Console, title: str, body: RenderableType) -> None:
    """A title and what stands below it."""
    console.print()
    console.print(Text(title, style="bold"))
    console.print(body)


def shown(text: str, style: str = "") -> Text:
    """A text of a row or a model, without what a terminal would obey."""
    return Text(printable(text), style=style)


def grid(lines: Iterable[tuple[str, str]]) -> Table:
    """Names on the left, texts that wrap on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14, no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(shown(name), shown(text))
    return table


def headline(story: RowHistory) -> Text:
    """The verdict in a line."""
    reason, split = story.rows[0].reason, story.rows[0].row["split"]
    return shown(f"{story.id}: ", style="bold").append(
        f"rejected from {split}, {reason}" if reason else f"kept in {split}",
        style="bold red" if reason else "bold green",
    )


def found(story: RowHistory) -> Fields:
    """Where its rows lie."""
    yield "version", story.version
    for stored in story.rows:
        yield (
            stored.row["split"],
            f"{stored.file}, row {stored.at}{stored.reason and f': {stored.reason}'}",
        )
    if len(story.history) > 1:
        yield "in versions", ", ".join(f"{name} {state}" for name, state in story.history.items())


def question(story: RowHistory) -> Fields:
    """What is asked, of which images, and what the answer is."""
    from bimode.storage.dataset import question_of

    row = story.rows[0].row
    yield "text", short(question_of(row) if row["prompt"] else "", LONG)
    yield "answer", short(row["answer"], SHORT)
    yield "verifier", f"{row['verifier']} {row['verifier_args'] or ''}".strip()
    yield (
        "task",
        ", ".join(filter(None, (row["task"], row["domain"], row["level"], row["difficulty"]))),
    )
    for at, image in enumerate(story.images):
        yield f"image {at}", f"{image.what}, {image.size:,} bytes"
    if story.images:
        yield "pixels sha256", row["image_sha256"] or ""
        yield "phash", row["image_phash"] or ""


def source(story: RowHistory) -> Fields:
    """Where it comes from and what was done to it."""
    row = story.rows[0].row
    yield "from", row["source"] and f"{row['source']}, licence {row['source_license'] or 'unknown'}"
    yield "items", short(", ".join(row["source_refs"] or ()), LONG)
    if row["parent_ids"]:
        yield "parents", ", ".join(row["parent_ids"])
    for op in row["ops"] or ():
        yield "done", f"{op['op']} v{op['version']}, settings {op['config_hash']}"


def rejected(story: RowHistory) -> Fields:
    """Why it, or another row of the same id, is not in the data."""
    from data_curation.checks.validate import REASONS

    for stored in story.rows:
        if stored.reason:
            yield stored.reason, REASONS.get(stored.reason, stored.reason).replace("`", "")
            yield "detail", short(stored.row["detail"], SHORT)
    if story.cause:
        yield "that row", describe(story.cause)


def same(story: RowHistory) -> Fields:
    """The other members of its group of repeats."""
    for member in story.group:
        yield member.split, describe(member)


def contamination(story: RowHistory) -> Fields:
    """How it was compared with evaluation items."""
    checked = story.rows[0].row["contamination"] or {}
    by = f", by {checked['method']}" if checked.get("method") else ": it repeats no evaluation row"
    yield "checked", f"yes{by}" if checked.get("checked") else "no"
    if checked.get("hit"):
        yield "hit", describe(story.hit) if story.hit else checked["hit"]


def tag(story: RowHistory) -> Fields:
    """The tag and its evidence."""
    if not (evidence := story.evidence):
        yield "mode", f"{story.rows[0].row['mode'] or 'none'}: nothing was measured"
        return
    row = evidence.row
    yield "mode", f"{row['mode']}, by {row['mode_reason']}, confidence {row['mode_conf']:.3f}"
    yield "rule", row["tag_rule"] and f"{row['tag_rule']}: {RULES.get(row['tag_rule'], '')}"
    if evidence.corrected is not None:
        yield (
            "right",
            (
                f"direct {row['n_pass_non_thinking']}/{row['n_rollouts']}, thinking"
                f" {row['n_pass_thinking']}/{row['n_rollouts']}"
            ),
        )
        low_high = ": {:.2f} to {:.2f}".format(*evidence.interval) if evidence.interval else ""
        level = (
            f" ({percent(evidence.confidence)} interval)"
            if evidence.interval and evidence.confidence
            else ""
        )
        yield (
            "direct rate",
            (
                f"{evidence.corrected:.2f} corrected for guessing at"
                f" {row['guess_rate']:.3f}{low_high}{level}"
            ),
        )
    yield "model", f"{row['rollout_model']}, settings {row['rollout_params_hash']}"


def written(story: RowHistory) -> Fields:
    """The training rows that it was written as."""
    for stored in story.rows:
        if stored.row["format"]:
            by = (
                f", reasoning by {stored.row['trace_source']}" if stored.row["trace_source"] else ""
            )
            yield stored.row["format"], f"{stored.row['id']}{by}"
            yield "", short(stored.row["messages"][-1]["content"], SHORT)


def trained(story: RowHistory) -> Fields:
    """How BPO fared with it."""
    for of in story.trained:
        yield (
            of.mode,
            (
                f"drawn {of.num_groups} times, {of.rollouts} rollouts, mean reward {of.reward:.2f},"
                f" {of.tokens:.1f} tokens"
            ),
        )


def by_cache(attempts: Iterable[Attempt]) -> Iterator[tuple[str, list[Attempt]]]:
    """The attempts of each model and sampling, with a title."""
    groups: dict[tuple[bool, str, str], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault((attempt.counted, attempt.kind, attempt.params_hash), []).append(attempt)
    for (counted, kind, params_hash), of_group in groups.items():
        yield (
            f"{kind} of {params_hash}{', which the tag rests on' if counted else ', not counted'}",
            of_group,
        )


def attempt_table(attempts: Iterable[Attempt]) -> Table:
    """A line an attempt."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    numbers = ("no.", "tokens")
    for name in ("mode", "no.", "verdict", "tokens", "text"):
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, justify=justify, overflow="fold", header_style="dim")
    for attempt in attempts:
        cells: tuple[Any, ...] = (
            attempt.mode,
            attempt.number,
            short(attempt.verdict, LINE),
            attempt.tokens,
        )
        table.add_row(*(shown(str(cell)) for cell in cells), shown(short(attempt.text, LINE)))
    return table


def describe(neighbour: Neighbour) -> str:
    """Another row in a line."""
    state = f"rejected, {neighbour.reason}" if neighbour.reason else "kept"
    return f"{neighbour.id} ({neighbour.split}, {state}): {short(neighbour.question, LINE)}"


if __name__ == "__main__":
    from pipelines import main

    main("explain")
