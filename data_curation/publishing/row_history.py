"""What a run knows of one question: where it is, whether it was kept and why, what its tag rests
on, and how BPO fared with it.

Only narrow columns of the files are read, and the images of the one row that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from bimode.errors import ConfigError
from bimode.inputs.pictures import PictureError, picture_header
from bimode.storage.dataset import Row
from bimode.storage.run_dir import read_json
from data_curation.parquet_sql import parquet
from data_curation.publishing.lookup import Lookup, Neighbour, RowRef, fetch
from data_curation.publishing.published import UNPUBLISHED
from data_curation.sampling.attempts import content_of
from data_curation.store import read_candidates
from data_curation.tagging.tags import correct_for_guessing


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image, e.g. ``ImageInfo("PNG, 40 x 40 pixels", 512)``; why not, where its header cannot be
    read.
    """

    what: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a tag rests on. Rates are of direct answers; the interval is of the corrected one, None
    where nothing was measured.
    """

    # of tags.parquet; of a rejected row its own columns, without the rule's line and interval
    row: Row
    corrected: float | None
    interval: tuple[float, float] | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a model once said to the question. `counted`: the tag rests on it."""

    kind: str  # rollouts, or what else was asked of a model
    params_hash: str
    mode: str
    number: int
    verdict: str  # right | wrong, a judge's word, or the engine's error
    tokens: int
    text: str
    counted: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """BPO's rollouts of the question in one mode, with means."""

    mode: str
    num_groups: int  # how often it was drawn
    rollouts: int
    reward: float
    tokens: float


@dataclass(frozen=True, slots=True)
class RowHistory:
    """All of it. `rows` are those that the version holds of the question, kept ones first; the
    images are the first one's.
    """

    id: str
    version: str
    history: Mapping[str, str]  # version -> kept, the reason, or absent
    rows: tuple[RowRef, ...]
    images: tuple[ImageInfo, ...]
    cause: Neighbour | None  # the row that `detail` names
    group: tuple[Neighbour, ...]  # others that are the same
    hit: Neighbour | None  # the evaluation row that it repeats
    evidence: Evidence | None
    attempts: tuple[Attempt, ...]
    trained: tuple[Trained, ...]


def load_history(run: Path, wanted: str) -> RowHistory:
    """The story of `wanted` in the current version of the run in `run`. Raises ConfigError where
    there is none.
    """
    folders = [
        folder
        for folder in _folders(run / "curate")
        if any(folder.glob("data/*.parquet")) or any(folder.glob("rejects/*"))
    ]
    if not folders:
        raise ConfigError(
            "DIR", run, "has no curate/data; name the run directory of a run that has curated"
        )
    lookup, question = _find(folders, wanted)
    folder = lookup.folder
    rows = lookup.rows(question)
    first, evidence = rows[0], _evidence(folder, question, rows)
    images = read_candidates(folder / first.file, [first.at], ["images"])["images"][0].as_py() or []
    named = next((stored.row["detail"] for stored in rows if stored.reason), "")
    return RowHistory(
        id=question,
        version=folder.name,
        history=_history(run, question),
        rows=rows,
        images=tuple(seen(image["bytes"] or b"") for image in images),
        cause=lookup.named(named) if named != question else None,
        group=lookup.same_as(first.row["dup_group"] or "", question),
        hit=lookup.named((first.row["contamination"] or {}).get("hit") or ""),
        evidence=evidence,
        attempts=_attempts(run / "cache", question, rows, evidence),
        trained=_trained(run / "bpo" / "rollouts", question),
    )


def _folders(stage: Path) -> tuple[Path, Path]:
    """The current version, then what the last run left if it had nothing to publish; they need not
    be there.
    """
    current = stage / "current"
    return current.resolve() if current.exists() else stage, stage / UNPUBLISHED


def _find(folders: Sequence[Path], wanted: str) -> tuple[Lookup, str]:
    """Where the question is, and its id. Raises ConfigError, with what there is in the first of
    `folders`.
    """
    problems = []
    for lookup in map(Lookup, folders):
        try:
            return lookup, lookup.find(wanted)
        except ConfigError as problem:
            problems.append(problem)
    raise problems[0]


def seen(data: bytes) -> ImageInfo:
    """What an image's header says."""
    try:
        kind, width, height = picture_header(data)
    except PictureError as error:
        return ImageInfo(error.detail, len(data))
    return ImageInfo(f"{kind}, {width} x {height} pixels", len(data))


def _history(run: Path, question: str) -> dict[str, str]:
    """What became of the question in each version that is there, and in a last run without one;
    empty for an older layout.
    """
    folders = sorted((run / "curate" / "versions").glob("[0-9]*"))
    whole = [folder for folder in folders if (folder / "manifest.json").is_file()]
    last = run / "curate" / UNPUBLISHED
    return {
        folder.name: Lookup(folder).state(question)
        for folder in (*whole, *([last] if last.is_dir() else ()))
    }


def _evidence(folder: Path, question: str, rows: Iterable[RowRef]) -> Evidence | None:
    """What was measured, also of a row that was rejected after its tag: tags.parquet has only those
    that are kept.
    """
    with duckdb.connect() as db:
        found = fetch(
            db,
            f"SELECT * FROM {parquet([folder / 'tags' / 'tags.parquet'])} WHERE id = $1",
            question,
        )
    bare = {"tag_rule": "", "tag_low": None, "tag_high": None}
    own = [
        bare | stored.row
        for stored in rows
        if stored.row["mode_reason"] not in (None, "", "untagged")
    ]
    row = next(iter([*found, *own]), None)
    if row is None:
        return None
    if not row["n_rollouts"]:
        return Evidence(row, None, None, None)
    recipe: Mapping[str, Any] = (
        (read_json(folder / "manifest.json") or {}).get("config", {}).get("curate", {})
    )
    corrected = correct_for_guessing(
        row["n_pass_non_thinking"] / row["n_rollouts"], row["guess_rate"]
    )
    interval = None if row["tag_low"] is None else (row["tag_low"], row["tag_high"])
    return Evidence(row, corrected, interval, recipe.get("tag", {}).get("confidence"))


def _attempts(
    cache: Path, question: str, rows: Iterable[RowRef], evidence: Evidence | None
) -> tuple[Attempt, ...]:
    """Every reply to the question in any cache: those that the tag rests on first."""
    parts = sorted(cache.glob("*/*/part-*.parquet"))
    if not parts:
        return ()
    with duckdb.connect() as db:
        found = fetch(
            db,
            f"SELECT * FROM {parquet(parts, 'union_by_name = true', 'filename = true')} WHERE id"
            " = $1",
            question,
        )
    contents = {content_of(stored.row) for stored in rows}
    attempts = []
    for row in found:
        kind, params_hash = Path(row["filename"]).parts[-3:-1]
        number: int = row["attempt"] if row.get("attempt") is not None else row["number"]
        tagged = evidence is not None and params_hash == evidence.row["rollout_params_hash"]
        within = evidence is not None and (
            kind != "rollouts" or number < (evidence.row["n_rollouts"] or 0)
        )
        attempts.append(
            Attempt(
                kind,
                params_hash,
                row.get("mode") or "",
                number,
                verdict=row["error"]
                or row.get("verdict")
                or ("right" if row.get("passed") else "wrong"),
                tokens=row["num_tokens"],
                text=row["text"] or "",
                counted=tagged and within and not row["error"] and row["content"] in contents,
            )
        )
    return tuple(
        sorted(attempts, key=lambda a: (not a.counted, a.kind, a.params_hash, a.mode, a.number))
    )


def _trained(rollouts: Path, question: str) -> tuple[Trained, ...]:
    steps = sorted(rollouts.glob("step-*.parquet"))
    if not steps:
        return ()
    query = (
        "SELECT mode, count(DISTINCT group_id), count(*), avg(reward), avg(tokens) FROM"
        f" {parquet(steps, 'union_by_name = true')} WHERE prompt_id = $1 GROUP BY mode ORDER BY"
        " mode"
    )
    with duckdb.connect() as db:
        return tuple(Trained(*row) for row in db.execute(query, [question]).fetchall())
