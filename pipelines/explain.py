"""`bimode explain DIR ID`: prints the history of one question, kept or rejected
(`data_curation.publishing.row_history`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bimode.evaluation.statistics import percent
from bimode.inputs.text import printable
from data_curation.publishing.wording import RULES, short

if TYPE_CHECKING:
    from data_curation.publishing.row_history import Attempt, RowHistory, RowRef

LONG = 1200  # characters on the screen: of a question
SHORT = 240  # of an answer
LINE = 100  # of an attempt, and of another question
Fields = Iterator[tuple[str, str]]


def explain_run(run: Path, wanted: str) -> None:
    """Print the history of `wanted` in the run directory `run`. Raises ConfigError if there is
    none.
    """
    from data_curation.publishing.row_history import load_history

    history = load_history(run, wanted)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(headline(history))
    for title, fields in sections(history).items():
        if lines := [line for line in fields(history) if line[1]]:
            print_section(console, title, grid(lines))
    for title, attempts in groupby(history.attempts, attempt_title):
        print_section(console, title, attempt_table(attempts))


def sections(history: RowHistory) -> dict[str, Callable[[RowHistory], Fields]]:
    """Return the sections by title."""
    is_rejected = bool(history.rows[0].reason)
    return {
        "found": found,
        "question": question,
        "source": source,
        "rejected" if is_rejected else "another row of this id is rejected": rejected,
        "same as": same,
        "contamination": contamination,
        "tag": tag,
        "written as": written,
        "BPO": trained,
    }


def print_section(console: Console, title: str, body: RenderableType) -> None:
    """Print a title and its section."""
    console.print()
    console.print(Text(title, style="bold"))
    console.print(body)


def shown(text: str, style: str = "") -> Text:
    """Return a text of a row or a model, with its control characters escaped."""
    return Text(printable(text), style=style)


def grid(lines: Iterable[tuple[str, str]]) -> Table:
    """Make a table with names on the left and texts that wrap on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14, no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(shown(name), shown(text))
    return table


def headline(history: RowHistory) -> Text:
    """Return the verdict in a line."""
    first = history.rows[0]
    verdict, color = f"kept in {first.row['split']}", "green"
    if first.reason:
        verdict, color = f"rejected from {first.row['split']}, {first.reason}", "red"
    return shown(f"{history.id}: ", style="bold").append(printable(verdict), style=f"bold {color}")


def found(history: RowHistory) -> Fields:
    """Describe where the rows lie."""
    yield "version", history.version
    for ref in history.rows:
        place = f"{ref.file}, row {ref.at}"
        yield ref.row["split"], f"{place}: {ref.reason}" if ref.reason else place
    if len(history.history) > 1:
        states = [f"{name} {state}" for name, state in history.history.items()]
        yield "in versions", ", ".join(states)


def question(history: RowHistory) -> Fields:
    """Describe the question, its answer and its images."""
    first = history.rows[0]
    row = first.row
    yield "text", short(first.question, LONG)
    yield "answer", short(row["answer"], SHORT)
    yield "verifier", f"{row['verifier']} {row['verifier_args'] or ''}".strip()
    task = (row["task"], row["domain"], row["level"], row["difficulty"])
    yield "task", ", ".join(filter(None, task))
    for at, image in enumerate(history.images):
        yield f"image {at}", f"{image.what}, {image.size:,} bytes"
    if history.images:
        yield "pixels sha256", row["image_sha256"] or ""
        yield "phash", row["image_phash"] or ""


def source(history: RowHistory) -> Fields:
    """Describe where the row comes from and what was done to it."""
    row = history.rows[0].row
    if row["source"]:
        yield "from", f"{row['source']}, license {row['source_license'] or 'unknown'}"
    yield "items", short(", ".join(row["source_refs"] or ()), LONG)
    yield "parents", ", ".join(row["parent_ids"] or ())
    for op in row["ops"] or ():
        yield "done", f"{op['op']} v{op['version']}, settings {op['config_hash']}"


def rejected(history: RowHistory) -> Fields:
    """Say why the row, or another row of the same id, is not in the data."""
    from data_curation.checks.validate import REASONS

    for ref in history.rows:
        if ref.reason:
            yield ref.reason, REASONS.get(ref.reason, ref.reason).replace("`", "")
            yield "detail", short(ref.row["detail"], SHORT)
    if history.cause:
        yield "that row", describe(history.cause)


def same(history: RowHistory) -> Fields:
    """List the other questions of its group of duplicates."""
    for ref in history.group:
        yield ref.row["split"], describe(ref)


def contamination(history: RowHistory) -> Fields:
    """Describe how the row was compared with evaluation items."""
    checked = history.rows[0].row["contamination"] or {}
    if not checked.get("checked"):
        yield "checked", "no"
    elif checked.get("method"):
        yield "checked", f"yes, by {checked['method']}"
    else:
        yield "checked", "yes: it repeats no evaluation row"
    if checked.get("hit"):
        yield "hit", describe(history.hit) if history.hit else checked["hit"]


def tag(history: RowHistory) -> Fields:
    """Describe the tag and its evidence."""
    evidence = history.evidence
    if not evidence:
        yield "mode", f"{history.rows[0].row['mode'] or 'none'}: nothing was measured"
        return
    row = evidence.row
    yield "mode", f"{row['mode']}, by {row['mode_reason']}, confidence {row['mode_conf']:.3f}"
    if row["tag_rule"]:
        yield "rule", f"{row['tag_rule']}: {RULES.get(row['tag_rule'], '')}"
    if evidence.corrected is not None:
        n = row["n_rollouts"]
        counts = f"direct {row['n_pass_non_thinking']}/{n}, thinking {row['n_pass_thinking']}/{n}"
        yield "right", counts
        rate = f"{evidence.corrected:.2f} corrected for guessing at {row['guess_rate']:.3f}"
        if evidence.interval:
            rate += ": {:.2f} to {:.2f}".format(*evidence.interval)
            if evidence.confidence:
                rate += f" ({percent(evidence.confidence)} interval)"
        yield "direct rate", rate
    yield "model", f"{row['rollout_model']}, settings {row['rollout_params_hash']}"


def written(history: RowHistory) -> Fields:
    """List the training rows that were written of it."""
    for ref in history.rows:
        if ref.row["format"]:
            trace = ref.row["trace_source"]
            by = f", reasoning by {trace}" if trace else ""
            yield ref.row["format"], f"{ref.row['id']}{by}"
            yield "", short(ref.row["messages"][-1]["content"], SHORT)


def trained(history: RowHistory) -> Fields:
    """List BPO's rollouts of it."""
    for mode in history.trained:
        draws = f"drawn {mode.num_groups} times, {mode.rollouts} rollouts"
        yield mode.mode, f"{draws}, mean reward {mode.reward:.2f}, {mode.tokens:.1f} tokens"


def attempt_title(attempt: Attempt) -> str:
    """Return the model and the sampling of an attempt."""
    use = ", which the tag rests on" if attempt.counted else ", not counted"
    return f"{attempt.kind} of {attempt.params_hash}{use}"


def attempt_table(attempts: Iterable[Attempt]) -> Table:
    """Make a table with one line an attempt."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("mode", "no.", "verdict", "tokens", "text"):
        table.add_column(name, overflow="fold", header_style="dim")
    table.columns[1].justify = table.columns[3].justify = "right"
    for attempt in attempts:
        table.add_row(
            shown(attempt.mode),
            str(attempt.number),
            shown(short(attempt.verdict, LINE)),
            str(attempt.tokens),
            shown(short(attempt.text, LINE)),
        )
    return table


def describe(ref: RowRef) -> str:
    """Describe another question in a line."""
    state = f"rejected, {ref.reason}" if ref.reason else "kept"
    return f"{ref.question_id} ({ref.row['split']}, {state}): {short(ref.question, LINE)}"


if __name__ == "__main__":
    from pipelines import main

    main("explain")
