"""Everything that a run knows of one question: where it is, whether it was kept and why, what its
tag rests on, and how BPO fared with it.

Searches read narrow columns of the files. Images are read of the one row that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from bimode.errors import ConfigError
from bimode.inputs.pictures import PictureError, picture_header
from bimode.storage.dataset import Row, question_of
from bimode.storage.run_dir import read_json
from data_curation.parquet_sql import parquet
from data_curation.publishing.published import UNPUBLISHED
from data_curation.sampling.attempts import content_of
from data_curation.store import NUMBERED, read_candidates
from data_curation.tagging.tags import correct_for_guessing

MOST_NAMED = 8  # ids in a message
MOST_NEIGHBORS = 10
NOT_A_RUN = "has no curate/data; name the run directory of a run that has curated"
NO_SUCH_ROW = "no such row"
NOWHERE = (
    f"{NO_SUCH_ROW}, and none like it; ids stand in data/ and rejects/, and a reference, e.g."
    " a.jsonl#6, will do as well"
)
VIEW = """
CREATE VIEW rows AS
SELECT id, source, source_refs, dup_group, {reason} AS reason, filename, file_row_number,
    CASE WHEN coalesce(format, '') <> '' THEN parent_ids[1] ELSE id END AS question_id
FROM {files}
"""
MATCHES = (  # what the id of a user may mean, tried in this order
    "id = $1 OR question_id = $1",
    "question_id = source || '-' || $1",
    "list_contains(source_refs, $1)",
    "starts_with(id, $1)",
)
NEAR = """
SELECT question_id FROM (SELECT DISTINCT question_id FROM rows)
WHERE levenshtein(question_id, $1) <= length($1) / 3
ORDER BY levenshtein(question_id, $1), question_id LIMIT 3
"""
KEPT_FIRST = "ORDER BY reason <> '', id, filename, file_row_number"
ONE_A_QUESTION = f"QUALIFY row_number() OVER (PARTITION BY question_id {KEPT_FIRST}) = 1"
SAME = "dup_group <> '' AND dup_group = $1 AND question_id <> $2"
ATTEMPTS = """
SELECT split_part(filename, '/', -3) AS kind, split_part(filename, '/', -2) AS params_hash,
    mode, number, coalesce(nullif(error, ''), verdict), num_tokens, coalesce(text, ''),
    error = '' AND params_hash = $params_hash AND list_contains($contents, content)
        AND (kind <> 'rollouts' OR number < $n_rollouts) AS counted
FROM {files} WHERE id = $id
ORDER BY NOT counted, kind, params_hash, mode, number
"""
TRAINED = """
SELECT mode, count(DISTINCT group_id), count(*), avg(reward), avg(tokens)
FROM {files} WHERE prompt_id = $1 GROUP BY mode ORDER BY mode
"""


@dataclass(frozen=True, slots=True)
class RowRef:
    """A row without its images, and where it lies: the file below the version's folder, and which
    row of it.
    """

    row: Row
    file: str
    at: int

    @property
    def reason(self) -> str:
        """Why the row was rejected; "" where it was kept."""
        return str(self.row["reason"] or "")

    @property
    def question_id(self) -> str:
        """The question that the row is, or was written of."""
        return str(self.row["parent_ids"][0] if self.row["format"] else self.row["id"])

    @property
    def question(self) -> str:
        """The question's text; "" where it could not be read."""
        return question_of(self.row) if self.row["prompt"] else ""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image, e.g. ``ImageInfo("PNG, 40 x 40 pixels", 512)``; why not, where its header cannot be
    read.
    """

    what: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a tag rests on. Rates are of non-thinking answers; the interval is of the corrected one,
    None where nothing was measured.
    """

    # of tags.parquet; of a rejected row its own columns, without the rule's line and interval
    row: Row
    corrected: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply of a model to the question. `counted`: the tag rests on it."""

    kind: str  # rollouts, or what else a model was prompted for
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
    """The whole history. `rows` are those that the version holds of the question, kept ones first;
    the images are the first one's.
    """

    id: str
    version: str
    history: Mapping[str, str]  # version -> kept, the reason, or absent
    rows: tuple[RowRef, ...]
    images: tuple[ImageInfo, ...]
    cause: RowRef | None  # the row that `detail` names
    group: tuple[RowRef, ...]  # other questions that are the same
    hit: RowRef | None  # the evaluation row that it repeats
    evidence: Evidence | None
    attempts: tuple[Attempt, ...]
    trained: tuple[Trained, ...]


class VersionRows:
    """The rows of the version in `folder`, kept and rejected, as one table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = duckdb.connect()
        files = [*sorted(folder.glob("data/*.parquet")), *sorted(folder.glob("rejects/*.parquet"))]
        has_reason = any("reason" in pq.read_schema(file).names for file in files)
        reason = "coalesce(reason, '')" if has_reason else "''"
        table = parquet(files, "union_by_name = true", *NUMBERED)
        self._db.execute(VIEW.format(reason=reason, files=table))

    def find(self, wanted: str) -> str:
        """Returns the question that is meant by an id, a written row's id, the id in its source, a
        source reference, or the beginning of an id.

        Raises ConfigError where there is none, or more than one.
        """
        for condition in MATCHES:
            found = self._ids(f"SELECT DISTINCT question_id FROM rows WHERE {condition}", wanted)
            if len(found) == 1:
                return found[0]
            if found:
                named = ", ".join(sorted(found)[:MOST_NAMED])
                more = len(found) - MOST_NAMED
                rest = f" and {more:,} more" if more > 0 else ""
                raise ConfigError("ID", wanted, f"fits {len(found):,} questions: {named}{rest}")
        near = ", ".join(self._ids(NEAR, wanted))
        raise ConfigError("ID", wanted, f"{NO_SUCH_ROW}; near it are {near}" if near else NOWHERE)

    def rows(self, condition: str, *values: str) -> tuple[RowRef, ...]:
        """The rows that fulfil an SQL condition. Only their row groups are read."""
        query = f"SELECT filename, file_row_number FROM rows WHERE {condition}"
        return tuple(self._read(*place) for place in self._db.execute(query, values).fetchall())

    def questions(self, condition: str, *values: str) -> tuple[RowRef, ...]:
        """A row of each question that fulfils it, kept ones first, at most `MOST_NEIGHBORS`."""
        limit = f"LIMIT {MOST_NEIGHBORS}"
        return self.rows(f"{condition} {ONE_A_QUESTION} {KEPT_FIRST} {limit}", *values)

    def named(self, question: str) -> RowRef | None:
        """The question of that id, if there is one."""
        return next(iter(self.questions("question_id = $1", question)), None)

    def state(self, question: str) -> str:
        """``kept``, the reason of a reject, or ``absent``."""
        query = "SELECT min(reason) FROM rows WHERE question_id = $1"
        [(reason,)] = self._db.execute(query, [question]).fetchall()
        return "absent" if reason is None else reason or "kept"

    def _ids(self, query: str, wanted: str) -> list[str]:
        return [str(row[0]) for row in self._db.execute(query, [wanted]).fetchall()]

    def _read(self, filename: str, at: int) -> RowRef:
        """`reason` and `detail` are empty where the row was kept."""
        columns = [name for name in pq.read_schema(filename).names if name != "images"]
        [row] = read_candidates(Path(filename), [at], columns).to_pylist()
        file = Path(filename).relative_to(self.folder)
        return RowRef({"reason": "", "detail": ""} | row, str(file), at)


def load_history(run: Path, wanted: str) -> RowHistory:
    """The history of `wanted` in the current version of the run in `run`, or else in what the last
    run left. Raises ConfigError where there is none.
    """
    version, question = _find(run, wanted)
    folder = version.folder
    rows = version.rows(f"question_id = $1 {KEPT_FIRST}", question)
    first, evidence = rows[0], _evidence(folder, question, rows)
    images = read_candidates(folder / first.file, [first.at], ["images"])["images"][0].as_py() or []
    detail = next((ref.row["detail"] for ref in rows if ref.reason), "")
    contamination = first.row["contamination"] or {}
    return RowHistory(
        id=question,
        version=folder.name,
        history=_states(run / "curate", question),
        rows=rows,
        images=tuple(image_info(image["bytes"] or b"") for image in images),
        cause=version.named(detail) if detail != question else None,
        group=version.questions(SAME, first.row["dup_group"] or "", question),
        hit=version.named(contamination.get("hit") or ""),
        evidence=evidence,
        attempts=_attempts(run / "cache", question, rows, evidence),
        trained=_trained(run / "bpo" / "rollouts", question),
    )


def image_info(data: bytes) -> ImageInfo:
    """What an image's header says."""
    try:
        kind, width, height = picture_header(data)
    except PictureError as error:
        return ImageInfo(error.detail, len(data))
    return ImageInfo(f"{kind}, {width} x {height} pixels", len(data))


def _find(run: Path, wanted: str) -> tuple[VersionRows, str]:
    """The version that holds the question, and its id. The current version is searched before what
    the last run left without publishing it, and its message is the one that a user sees.
    """
    stage = run / "curate"
    current = (stage / "current").resolve() if (stage / "current").exists() else stage
    problems = []
    for folder in (current, stage / UNPUBLISHED):
        if not any(folder.glob("data/*.parquet")) and not any(folder.glob("rejects/*")):
            continue
        version = VersionRows(folder)
        try:
            return version, version.find(wanted)
        except ConfigError as problem:
            problems.append(problem)
    raise problems[0] if problems else ConfigError("DIR", run, NOT_A_RUN)


def _states(stage: Path, question: str) -> dict[str, str]:
    """What became of the question in each version, and in a last run without one; empty for an
    older layout.
    """
    manifests = sorted(stage.glob("versions/[0-9]*/manifest.json"))
    folders = [manifest.parent for manifest in manifests]
    if (stage / UNPUBLISHED).is_dir():
        folders.append(stage / UNPUBLISHED)
    return {folder.name: VersionRows(folder).state(question) for folder in folders}


def _evidence(folder: Path, question: str, rows: tuple[RowRef, ...]) -> Evidence | None:
    """What was measured. tags.parquet has kept questions alone; a row that was rejected after its
    tag has its counts in its own columns.
    """
    tags = folder / "tags" / "tags.parquet"
    found = pq.read_table(tags, filters=[("id", "=", question)], partitioning=None).to_pylist()
    for ref in rows:
        if ref.row["mode_reason"] not in (None, "", "untagged"):
            found.append({"tag_rule": "", "tag_low": None, "tag_high": None} | ref.row)
    if not found:
        return None
    row = found[0]
    if not row["n_rollouts"]:
        return Evidence(row)
    rate = row["n_pass_non_thinking"] / row["n_rollouts"]
    recipe = (read_json(folder / "manifest.json") or {}).get("config", {}).get("curate", {})
    return Evidence(
        row,
        corrected=correct_for_guessing(rate, row["guess_rate"]),
        interval=None if row["tag_low"] is None else (row["tag_low"], row["tag_high"]),
        confidence=recipe.get("tag", {}).get("confidence"),
    )


def _attempts(
    cache: Path, question: str, rows: tuple[RowRef, ...], evidence: Evidence | None
) -> tuple[Attempt, ...]:
    """Every reply to the question in any cache. Those that the tag rests on come first."""
    parts = sorted(cache.glob("*/*/part-*.parquet"))
    if not parts:
        return ()
    measured = evidence.row if evidence else {"rollout_params_hash": "", "n_rollouts": 0}
    values = {
        "id": question,
        "params_hash": measured["rollout_params_hash"] or "",
        "contents": [content_of(ref.row) for ref in rows],
        "n_rollouts": measured["n_rollouts"] or 0,
    }
    query = ATTEMPTS.format(files=parquet(parts, "union_by_name = true", "filename = true"))
    with duckdb.connect() as db:
        return tuple(Attempt(*row) for row in db.execute(query, values).fetchall())


def _trained(rollouts: Path, question: str) -> tuple[Trained, ...]:
    steps = sorted(rollouts.glob("step-*.parquet"))
    if not steps:
        return ()
    query = TRAINED.format(files=parquet(steps, "union_by_name = true"))
    with duckdb.connect() as db:
        return tuple(Trained(*row) for row in db.execute(query, [question]).fetchall())
