"""Small shards for decide: rows by name, pictures by what they show, and what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.curate import DedupConfig
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.dedup.decide import Decisions, decide, write_index
from data_curation.dedup.fingerprints import answer_key, content_key, question_key
from data_curation.store import Store

CONFIG = DedupConfig(image_radius=32)
ORDER = ("eval", "decontaminate", "train", "rl")
STORY = (
    "At the harbour Amara unloads 12 crates that hold 30 lemons each, and 7 of these turn out to be"
    " broken. It is a windy day in March and the harbour closes early. How many good lemons are"
    " there?"
)
NARROW = (
    "id",
    "split",
    "reason",
    "question",
    "answer",
    "content_key",
    "question_key",
    "answer_key",
    "image_sha256",
    "image_phash",
)


@dataclass(frozen=True)
class Case:
    """A row. `pictures` name its pictures, each by what it shows and in which file: the same in
    another file is near.
    """

    id: str
    split: str = "train"
    question: str = "what is the remainder by 23 ?"
    answer: str = "17"
    pictures: tuple[tuple[int, int], ...] = ()
    reason: str = ""

    def row(self) -> dict[str, Any]:
        prints = [fingerprint(*picture) for picture in self.pictures]
        sha = hashlib.sha256(repr(self.pictures).encode()).hexdigest() if self.pictures else ""
        values = (
            self.id,
            self.split,
            self.reason,
            self.question,
            self.answer,
            content_key(self.question, sha),
            question_key(self.question),
            answer_key(self.answer),
            sha,
            "-".join(each.hex() for each, _ in prints),
        )
        return dict(zip(NARROW, values, strict=True)) | {
            "image_thumbs": b"".join(thumb for _, thumb in prints)
        }


def fingerprint(shown: int, file: int) -> tuple[bytes, bytes]:
    """Hash and thumbnail: files `f` and `g` of one picture lie ``4 |f - g|`` bits and 1 gray level
    apart, pictures 128 and 70.
    """
    rng = np.random.default_rng(shown)
    bits, gray = rng.integers(0, 2, 256), rng.integers(20, 230, 400)
    bits[: 4 * file] ^= 1
    return (
        np.packbits(bits).tobytes(),
        (gray + np.random.default_rng(file).choice([-1, 1], 400)).astype(np.uint8).tobytes(),
    )


def write(folder: Path, shards: Sequence[Sequence[Case]]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{at}.parquet" for at in range(len(shards))]
    for file, cases in zip(files, shards, strict=True):
        rows = [
            case.row() | {"source_refs": [f"{file.stem}.jsonl#{at}"]}
            for at, case in enumerate(cases)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA), file)
    return files


def run(
    folder: Path,
    *shards: Sequence[Case],
    config: DedupConfig = CONFIG,
    earlier: Sequence[Path] = (),
) -> Decisions:
    return decide(write(folder / "shards", shards), earlier, config, folder / "out.parquet")


def index_of(files: Sequence[Path], decisions: Path, out: Path, run_name: str = "") -> Path:
    """The index of what `decisions` leave of `files`."""
    store = Store(files, out.parent / f"scratch-{out.name}")
    store.add_overlay(decisions)
    write_index(store, out, run_name)
    store.close()
    return out


def decided(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "out.parquet").to_pylist()


def reasons(folder: Path) -> dict[str, tuple[str, str, str]]:
    """id -> reason, the row that it repeats, the method for what is contaminated."""
    return {
        row["id"]: (row["reason"], row["detail"], row["contamination"]["method"])
        for row in decided(folder)
    }
