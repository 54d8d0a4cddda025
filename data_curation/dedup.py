"""Exact repetition and contamination, on a key of the canonical question and the decoded pixels.

Templated questions differ in the picture and not in the words, so n-grams and MinHash are the wrong tools for them; the
same picture under another file encoding is the same. Evaluation rows always stay: what repeats one of them in train or
rl is contaminated. Of other repetitions the first in (train, rl) and then by id stays. Nothing random, nothing that
depends on the order of rows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from bimode.dataset import question_of
from bimode.rundir import digest_json
from data_curation.candidates import replace_columns

KEEP_ORDER = {"eval": 0, "train": 1, "rl": 2}


@dataclass(frozen=True, slots=True)
class KeyedRow:
    """What dedup needs of a row, e.g. ``KeyedRow("digits-train-0-7", "train", "9f...")``."""

    id: str
    split: str
    key: str


def content_key(question: str, image_sha256: str) -> str:
    """Digest of the question (NFKC, case folded, white space collapsed) and the pixels."""
    canonical = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    return digest_json([canonical, image_sha256])


def find_repeats(rows: Iterable[KeyedRow]) -> dict[str, tuple[str, str]]:
    """id -> (reason, id of the row that it repeats) for every row that must go."""
    groups: dict[str, list[KeyedRow]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    out = {}
    for members in groups.values():
        first, *others = sorted(members, key=lambda r: (KEEP_ORDER[r.split], r.id))
        for row in others:
            leaked = first.split == "eval" and row.split != "eval"
            out[row.id] = ("contaminated" if leaked else "duplicate", first.id)
    return out


def mark_repeats(candidates: pa.Table) -> pa.Table:
    """`candidates` with reason, detail, dup_group and contamination filled in for every row that was still in."""
    rows = candidates.select(["id", "split", "prompt", "image_sha256", "reason", "detail"]).to_pylist()
    alive = [row for row in rows if not row["reason"]]
    repeats = find_repeats(KeyedRow(row["id"], row["split"], content_key(question_of(row), row["image_sha256"])) for row in alive)
    kept = {row["id"] for row in alive}
    new = {
        "reason": [repeats.get(row["id"], (row["reason"], ""))[0] for row in rows],
        "detail": [repeats.get(row["id"], ("", row["detail"]))[1] for row in rows],
        "dup_group": [repeats.get(row["id"], ("", row["id"]))[1] if row["id"] in kept else "" for row in rows],
        "contamination": [_contamination(row["id"], row["split"], row["id"] in kept, repeats) for row in rows],
    }
    return replace_columns(candidates, new)


def _contamination(row_id: str, split: str, checked: bool, repeats: Mapping[str, tuple[str, str]]) -> dict[str, object]:
    reason, hit = repeats.get(row_id, ("", ""))
    applies = checked and split != "eval"
    return {
        "checked": applies,
        "hit": hit if reason == "contaminated" else "",
        "method": "exact question + pixels" if applies else "",
    }
