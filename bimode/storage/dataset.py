"""The Parquet rows of a curated data set: schema, Hugging Face metadata, and the way from a
`Sample` and to a `Prompt`.

One row is one training example (`train`: prompt + assistant text in `messages`) or one question
(`rl`, `eval`: `messages` holds the user turn only). Stamped with `SCHEMA`, a file opens with
`datasets.load_dataset` and shows decoded images. No column is called `image`: Ray Data's multimodal
stages claim that name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bimode.errors import ConfigError
from bimode.inputs.pictures import open_picture
from bimode.records import IMAGE_MARKER, Prompt, Sample
from bimode.storage.limited import allow_for, excess, parquet_batches, stream

Row = dict[
    str, Any
]  # one Parquet row as Python values, always with exactly the columns of a schema

SPLITS = ("train", "rl", "eval")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_OP = pa.struct([("op", pa.string()), ("version", pa.string()), ("config_hash", pa.string())])
_CONTAMINATION = pa.struct([("checked", pa.bool_()), ("hit", pa.string()), ("method", pa.string())])

_FIELDS = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("prompt", pa.list_(_TURN)),
        ("messages", pa.list_(_TURN)),
        ("answer", pa.string()),
        ("answer_type", pa.string()),
        ("verifier", pa.string()),
        ("verifier_args", pa.string()),
        ("mode", pa.string()),
        ("mode_reason", pa.string()),  # pass_rate | untagged
        ("mode_conf", pa.float32()),
        ("n_rollouts", pa.int16()),
        ("n_pass_non_thinking", pa.int16()),
        ("n_pass_thinking", pa.int16()),
        ("pass_rate_non_thinking", pa.float32()),
        ("pass_rate_thinking", pa.float32()),
        ("rollout_model", pa.string()),
        ("rollout_params_hash", pa.string()),
        ("task", pa.string()),
        ("domain", pa.string()),
        ("level", pa.string()),
        ("difficulty", pa.string()),
        ("guess_rate", pa.float32()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("source_license", pa.string()),
        ("source_refs", pa.list_(pa.string())),
        ("parent_ids", pa.list_(pa.string())),
        ("ops", pa.list_(_OP)),
        ("image_sha256", pa.string()),
        ("image_phash", pa.string()),
        ("dup_group", pa.string()),
        ("contamination", _CONTAMINATION),
        ("format", pa.string()),  # thinking | non_thinking | transcription; "" in rl and eval
        ("trace_source", pa.string()),  # oracle | a model's name; "" where no trace is shown
    ]
)


def _feature(kind: pa.DataType) -> Any:
    """Return the `datasets` feature of an Arrow type."""
    if kind.equals(_IMAGE):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


HF_FEATURES: dict[str, Any] = {field.name: _feature(field.type) for field in _FIELDS}
SCHEMA = _FIELDS.with_metadata({"huggingface": json.dumps({"info": {"features": HF_FEATURES}})})


def image_digest(images: Sequence[bytes]) -> str:
    """Return the digest of the decoded pictures, which does not depend on their files.

    Raises PictureError for bytes that are no picture.
    """
    return picture_digest(map(open_picture, images))


def picture_digest(pictures: Iterable[Image.Image]) -> str:
    """Return sha256 over mode, size and pixels of decoded pictures; "" for none."""
    hasher, some = hashlib.sha256(), False
    for picture in pictures:
        some = True
        hasher.update(f"{picture.mode}{picture.size}".encode())
        hasher.update(picture.tobytes())
    return hasher.hexdigest() if some else ""


def user_turn(question: str, num_images: int) -> list[dict[str, str]]:
    """Return the prompt column: one user turn with a marker for each image before the question."""
    return [{"role": "user", "content": IMAGE_MARKER * num_images + question}]


def question_of(row: Row) -> str:
    """Return the question of a row without its image markers."""
    return str(row["prompt"][-1]["content"]).replace(IMAGE_MARKER, "")


def sample_row(sample: Sample, split: str) -> Row:
    """Convert `sample` to an untagged row of `split` with every column of SCHEMA; validation fills
    in the image digest.
    """
    prompt = user_turn(sample.question, len(sample.images))
    return {
        "id": sample.id,
        "images": [
            {"bytes": data, "path": f"{sample.id}-{k}.png"} for k, data in enumerate(sample.images)
        ],
        "prompt": prompt,
        "messages": prompt,
        "answer": sample.answer,
        "answer_type": "int" if sample.answer.lstrip("-").isdigit() else "word",
        "verifier": sample.verifier,
        "verifier_args": sample.verifier_args,
        "mode": "either",
        "mode_reason": "untagged",
        "mode_conf": 0.0,
        "n_rollouts": 0,
        "n_pass_non_thinking": 0,
        "n_pass_thinking": 0,
        "pass_rate_non_thinking": None,
        "pass_rate_thinking": None,
        "rollout_model": "",
        "rollout_params_hash": "",
        "task": sample.task,
        "domain": sample.domain,
        "level": sample.level,
        "difficulty": sample.difficulty,
        "guess_rate": sample.guess_rate,
        "split": split,
        "source": sample.source,
        "source_license": sample.source_license,
        "source_refs": list(sample.source_refs),
        "parent_ids": [],
        "ops": [],
        "image_sha256": "",
        "image_phash": "",
        "dup_group": "",
        "contamination": {"checked": False, "hit": "", "method": ""},
        "format": "",
        "trace_source": "",
    }


def split_files(path: Path, split: str) -> list[Path]:
    """Return the shards of `split` below `path` (a data folder or the stage folder above it).
    Raises ConfigError if none.
    """
    folder = path / "data" if (path / "data").is_dir() else path
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        there = sorted(p.name for p in folder.glob("*.parquet")) if folder.is_dir() else []
        raise ConfigError(
            "data",
            folder,
            f"no {split}-*.parquet there" + (f"; here are {', '.join(there[:5])}" if there else ""),
        )
    return files


def check_split(path: Path, split: str, columns: Sequence[str]) -> None:
    """Check that the shards of `split` below `path` have `columns`, each of its type in SCHEMA.

    Raises ConfigError if not, or if there is no shard.
    """
    for file in split_files(path, split):
        found = dict(_foreign(_column_types, file))
        if missing := [name for name in columns if name not in found]:
            fix = f"has no column {', '.join(missing)}; docs/formats.md lists those of a data set"
            raise ConfigError("data", file, fix)
        for name in columns:
            wanted = _spelled(SCHEMA.field(name).type)
            if found[name] != wanted:
                fix = f"its column {name} is {found[name][:100]} and must be {wanted}"
                raise ConfigError("data", file, fix)


def _column_types(file: Path) -> Iterator[tuple[str, str]]:
    for field in pq.read_schema(file):
        yield field.name, _spelled(field.type)


def _spelled(kind: pa.DataType) -> str:
    """Return the name of a type, without the size of its offsets and the name of its items."""
    return str(kind).replace("large_", "").replace("<element: ", "<item: ")


def read_rows(path: Path, split: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of `split` in file order, which is the order of ids. Raises ConfigError for a
    damaged file.
    """
    for file in split_files(path, split):
        yield from read_file(file, columns)


def read_file(file: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of one shard. Raises ConfigError for a damaged file."""
    return _foreign(_file_rows, file, columns)


def _foreign(work: Callable[..., Iterator[Any]], file: Path, *args: object) -> Iterator[Any]:
    """Yield what ``work(file, *args)`` yields in a child process with bounded memory: the file may
    be hostile. `file` may be a stranger's.

    Raises ConfigError for what Arrow finds wrong with it.
    """
    try:
        yield from stream(work, file, *args)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        if getattr(error, "errno", None):  # of the disk, and not of what stands on it
            raise
        why = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ConfigError("data", file, f"cannot be read as Parquet: {why}") from None


def _file_rows(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    allow_for(file.stat().st_size)
    table = pq.ParquetFile(file, buffer_size=1 << 20)
    for group in range(table.num_row_groups):
        for batch in parquet_batches(table, group, columns):
            batch.validate()
            for row in _python_rows(batch):
                if problem := excess(row):
                    raise ValueError(f"a row of {problem}")
                yield row


def _python_rows(batch: pa.RecordBatch) -> list[Row]:
    """Yield the rows of `batch`; a text that is not UTF-8 stays bytes, so that it costs no other
    row.
    """
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        names = batch.schema.names
        return [
            dict(zip(names, map(_value, cells), strict=True))
            for cells in zip(*batch.columns, strict=True)
        ]


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return b""


def row_prompt(row: Row) -> Prompt:
    """Return what rollout workers and verifiers need of a row; the tag is empty if nothing was
    measured.
    """
    return Prompt(
        id=row["id"],
        question=question_of(row),
        images=tuple(image["bytes"] for image in row["images"]),
        answer=row["answer"],
        verifier=row["verifier"],
        verifier_args=row["verifier_args"],
        task=row["task"],
        level=row["level"],
        tag=row["mode"] if row["mode_reason"] == "pass_rate" else "",
    )


PROMPT_COLUMNS = (
    "id",
    "images",
    "prompt",
    "answer",
    "verifier",
    "verifier_args",
    "task",
    "level",
    "mode",
    "mode_reason",
)
TRAIN_COLUMNS = (
    "id",
    "parent_ids",
    "format",
    "prompt",
    "messages",
    "images",
    "pass_rate_non_thinking",
    "pass_rate_thinking",
)
