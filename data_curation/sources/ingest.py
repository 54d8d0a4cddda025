"""Shards -> files of candidates, checked, filtered and fingerprinted: one Ray Data job, one task a
shard.

consumes      shards that have no file of candidates yet
produces      `<key>.parquet` a shard, whole or not at all; a row that fails is in it too, with its
              reason
memory        a batch of rows, whatever the size of the shard
interrupted   what finished shards wrote is not made again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.curate import CurateConfig
from bimode.errors import RowNote
from bimode.grading.verify import new_budget
from bimode.inputs.prompt_limits import PromptModel
from bimode.inputs.text import OURS
from bimode.records import Sample
from bimode.storage.dataset import Row, question_of, sample_row
from bimode.storage.run_dir import digest_json
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.checks.filters import filter_row
from data_curation.checks.validate import Checked, check_rows
from data_curation.dedup.fingerprints import answer_key, content_key, question_key
from data_curation.sampling.attempts import content_of
from data_curation.sources.refusal import Refusal
from data_curation.sources.shards import Shard, shard_key
from data_curation.tasks import run_tasks
from data_curation.traces.checks import is_replaceable

BATCH_ROWS = 256
ROWS_PER_PROCESS = 200  # at least: a process that draws first imports for seconds
BATCH_BYTES = 32 << 20  # of images
EMPTY: Row = {
    field.name: (
        "" if pa.types.is_string(field.type) else [] if pa.types.is_list(field.type) else None
    )
    for field in CANDIDATE_SCHEMA
}


def ingest(
    shards: Sequence[Shard],
    config: CurateConfig,
    folder: Path,
    on_done: Callable[[int], None],
    model: PromptModel | None = None,
) -> list[Path]:
    """The files of candidates of `shards`, in their order; those that are missing are made. Needs a
    connected Ray for that.

    Rows whose prompt does not fit `model` are rejects; without one, no row is asked.
    `on_done` hears of shards as they are finished, those that were there at once.
    """
    limits_key = model.key if model else ""
    files = [folder / f"{shard_key(shard, config, limits_key)}.parquet" for shard in shards]
    missing = [
        (shard, file)
        for file, shard in dict(zip(files, shards, strict=True)).items()
        if not file.exists()
    ]
    on_done(len(files) - len(missing))
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        for done in _run(missing, config, model):
            on_done(done)
    return files


def _run(
    missing: Sequence[tuple[Shard, Path]], config: CurateConfig, model: PromptModel | None
) -> Iterator[int]:
    """Says how many shards are finished, as they finish."""

    def make(batch: pa.Table) -> pa.Table:
        asked = [missing[at] for at in batch["at"].to_pylist()]
        rows = [write_candidates(shard, file, config, model) for shard, file in asked]
        return pa.table({"rows": pa.array(rows, pa.int64())})

    processes = 1 + sum(shard.size for shard, _ in missing) // ROWS_PER_PROCESS
    tasks = [pa.table({"at": [at]}) for at in range(len(missing))]
    for part in run_tasks(tasks, make, min(processes, len(missing))):
        yield part.num_rows


def write_candidates(
    shard: Shard, file: Path, config: CurateConfig, model: PromptModel | None = None
) -> int:
    """Writes the candidates of `shard` to `file`; returns how many rows there are."""
    new_budget()
    partial, count = file.with_name(f".{file.name}-{digest_json(str(shard.settings))[:8]}"), 0
    try:
        with pq.ParquetWriter(partial, CANDIDATE_SCHEMA, compression="zstd") as writer:
            for batch in batches(shard.samples()):
                table = candidates(batch, shard.split, config, model)
                writer.write_table(table, row_group_size=BATCH_ROWS)
                count += table.num_rows
    except OSError:  # a full disk gets its room back
        partial.unlink(missing_ok=True)
        raise
    partial.replace(file)
    return count


def batches(samples: Iterable[Sample | Refusal]) -> Iterator[list[Sample | Refusal]]:
    """`samples` in pieces that fit in memory."""
    batch: list[Sample | Refusal] = []
    size = 0
    for sample in samples:
        batch.append(sample)
        size += sum(map(len, sample.images)) if isinstance(sample, Sample) else 0
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def candidates(
    batch: Sequence[Sample | Refusal],
    split: str,
    config: CurateConfig,
    model: PromptModel | None = None,
) -> pa.Table:
    """One row a sample or refusal, in CANDIDATE_SCHEMA."""
    rows = [
        refused_row(each, split) if isinstance(each, Refusal) else candidate_row(each, split)
        for each in batch
    ]
    sound = [row for row in rows if not row["reason"]]
    controls = model.control_tokens if model and split != "decontaminate" else OURS
    checks = check_rows(
        sound,
        hashed=config.dedup.image_radius > 0,
        controls=controls,
        own_verifiers=config.verifiers,
    )
    for row, found in zip(sound, checks, strict=True):
        if found.reason == "bad_schema":
            ref = repr([row["source"], row["source_refs"], row["id"]])  # whatever these are
            refusal = Refusal(ref, found.reason, found.detail, *_origin(row))
            row |= refused_row(refusal, split)
            continue
        reason, detail = found.reason, found.detail
        with RowNote(row["id"]):
            if not reason and split != "decontaminate":
                reason, detail = _refusal(row, config, model)
            row |= fingerprint(row, found) | {"reason": reason, "detail": detail}
    return pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)


def _refusal(row: Row, config: CurateConfig, model: PromptModel | None) -> tuple[str, str]:
    """(reason, detail) of the first filter or limit that a sound row does not meet."""
    # a teacher's takes the place of one that is no good
    own = "" if is_replaceable(row["verifier"], config.traces) else row["trace"]
    found = filter_row(row["question"], row["answer"], own, config.filter)
    if any(found) or model is None:
        return found
    return model.refusal(row["question"], [image["bytes"] for image in row["images"]])


def candidate_row(sample: Sample, split: str) -> Row:
    """An unchecked row with every column of CANDIDATE_SCHEMA."""
    row = sample_row(sample, split)
    return (
        EMPTY
        | row
        | {
            "trace": sample.trace,
            "transcription": sample.transcription,
            "question": question_of(row),
        }
    )


def refused_row(refusal: Refusal, split: str) -> Row:
    """What is left of a record that could not be read."""
    return EMPTY | {
        "id": f"refused-{digest_json([refusal.source, refusal.ref])}",
        "split": split,
        "source_refs": [refusal.ref],
        "source": refusal.source,
        "source_license": refusal.license,
        "reason": refusal.reason,
        "detail": refusal.detail,
    }


def _origin(row: Row) -> tuple[str, str]:
    """Source and license of a row of which nothing is certain."""
    source, license = row["source"], row["source_license"]
    sound = (
        isinstance(source, str) and isinstance(license, str) and (source + license).isprintable()
    )
    return (source, license) if sound else ("", "")


def fingerprint(row: Row, checked: Checked) -> Row:
    """The columns by which rows are compared."""
    row = row | {"image_sha256": checked.image_sha256}
    question = row["question"]
    return {
        "image_sha256": checked.image_sha256,
        "image_phash": checked.phash,
        "image_thumbs": checked.thumbnails,
        "content_key": content_key(question, checked.image_sha256),
        "question_key": question_key(question),
        "answer_key": answer_key(row["answer"]),
        "content": content_of(row),
    }
