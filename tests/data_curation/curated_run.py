"""A run directory after a small curation without Ray or an engine, with rows of every fate and
numbers that are known by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bimode.config.curate import CurateConfig, RolloutSampling, SourceConfig
from bimode.records import Sample
from bimode.storage.dataset import Row
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.demo import family_of
from data_curation.publishing.publish import publish
from data_curation.publishing.published import Published
from data_curation.sampling.cache import write_replies
from data_curation.sources.ingest import candidates
from data_curation.sources.refusal import Refusal
from data_curation.store import Store
from data_curation.tagging.tags import assign_tag
from tests.data_curation.flow import attempt

N = 8
CONFIG = CurateConfig(paired_share=0.0, rollouts=RolloutSampling(n=N))
EVEN = (1.0, 1.0, 1.0)
HASH, OTHER_HASH = "3f" * 16, "ab" * 16
DIRECT = {
    4: 0,
    5: 8,
    6: 6,
}  # right direct attempts of 8 by place in the train split; all eight with reasoning are right
DIGITS, SUMS = "digits-train-0-{}", "sums-train-0-{}"
BROKEN, REFUSED = (
    "planted-broken",
    Refusal("bad.jsonl#17", "bad_record", "no column 'query' <script>alert(1)</script>"),
)


@dataclass(frozen=True, slots=True)
class Curated:
    """The run, its store, what it published and where."""

    run: Path
    store: Store
    published: Published
    version: Path


def samples(family: str, split: str, count: int) -> list[Sample]:
    """The first questions of a family."""
    draw = family_of(SourceConfig(family=family))
    return [draw(index, split, 0, EVEN) for index in range(count)]


def curate(run: Path) -> Curated:
    """Train: eight digits (two repeats, one contaminated, one untagged), a sum and two bad rows.
    Two rows of rl, two of eval.
    """
    first = samples("digits", "train", 8)
    broken = replace(
        first[0],
        id=BROKEN,
        images=(b"\x89PNG no picture",),
        source="bad.jsonl",
        source_license="unknown",
    )
    batches: dict[str, list[Sample | Refusal]] = {
        "train": [*first, *samples("sums", "train", 1), broken, REFUSED],
        "rl": [*samples("digits", "rl", 2)],
        "eval": [*samples("digits", "eval", 2)],
    }
    files = []
    for split, batch in batches.items():
        files.append(run / "cache" / "candidates" / f"{split}.parquet")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(candidates(batch, split, CONFIG), files[-1])
    store = Store(files, run / "scratch")
    _update(store, decisions(store))
    _update(store, tags(store, run / "cache" / "rollouts"))
    version = run / "curate" / "versions" / "0001"
    version.mkdir(parents=True)
    published = publish(store, CONFIG, ("train", "rl", "eval"), version, "demo")
    manifest = {
        "config": {"curate": CONFIG.model_dump(mode="json")},
        "counts": asdict(published),
        "started": 0.0,
        "seconds": 12.5,
    }
    (version / "manifest.json").write_text(json.dumps(manifest))
    (run / "curate" / "current").symlink_to("versions/0001")
    write_bpo(run / "bpo" / "rollouts")
    return Curated(run, store, published, version)


def decisions(store: Store) -> list[Row]:
    """Digits 1 and 2 repeat digits 0, and digits 3 an evaluation row."""
    repeats = {
        DIGITS.format(1): "duplicate",
        DIGITS.format(2): "near_duplicate",
        DIGITS.format(3): "contaminated",
    }
    found = []
    for row in store.table(["file", "row", "id", "split"], "reason = ''", "file, row").to_pylist():
        reason, kept = repeats.get(row["id"], ""), DIGITS.format(0)
        detail = "digits-eval-0-0" if reason == "contaminated" else kept if reason else ""
        hit, group = (
            detail if reason == "contaminated" else "",
            kept if "duplicate" in reason else row["id"],
        )
        contamination = {
            "checked": row["split"] != "eval",
            "hit": hit,
            "method": "question and pixels",
        }
        place = {"file": row["file"], "row": row["row"]}
        found.append(
            place
            | {
                "reason": reason,
                "detail": detail,
                "dup_group": group,
                "contamination": contamination,
            }
        )
    return found


def tags(store: Store, cache: Path) -> list[Row]:
    """Tags from known counts, with their rollouts in the cache; digits 7 is left without."""
    found, rollouts = [], []
    columns = ["file", "row", "id", "content", "guess_rate"]
    for at, row in enumerate(
        store.table(columns, "reason = '' AND split = 'train'", "file, row").to_pylist()
    ):
        place = {"file": row["file"], "row": row["row"]}
        if row["id"] == DIGITS.format(7):
            found.append(
                place
                | {
                    "mode": "either",
                    "mode_reason": "untagged",
                    "reason": "untagged",
                    "detail": "",
                }
            )
            continue
        k = DIRECT.get(int(row["id"].rsplit("-", 1)[1]), N)
        for mode, right in (("non_thinking", k), ("thinking", N)):
            rollouts += [
                replace(attempt(row, mode, j, j < right, f"say {at}"), num_tokens=5)
                for j in range(N)
            ]
        tag = assign_tag(k, N, N, row["guess_rate"], True, CONFIG.tag)
        low, high = tag.interval
        found.append(
            place
            | {
                "mode": tag.mode,
                "mode_reason": "pass_rate",
                "mode_conf": tag.confidence,
                "tag_rule": tag.reason,
                "tag_low": low,
                "tag_high": high,
                "n_rollouts": N,
                "n_pass_non_thinking": k,
                "n_pass_thinking": N,
                "pass_rate_non_thinking": k / N,
                "pass_rate_thinking": 1.0,
                "rollout_model": "tiny-base",
                "rollout_params_hash": HASH,
                "reason": "",
                "detail": "",
            }
        )
    write_replies(cache / HASH, rollouts)
    write_replies(cache / OTHER_HASH, [replace(rollouts[0], verdict="", error="no room")])
    return found


def write_bpo(folder: Path) -> None:
    """Two steps, each of which draws digits-rl-0-0 once: one thinking rollout right, of two direct
    ones one.
    """
    folder.mkdir(parents=True)
    for step in range(2):
        rows = [
            {
                "group_id": step,
                "prompt_id": "digits-rl-0-0",
                "mode": mode,
                "reward": reward,
                "tokens": tokens,
            }
            for mode, reward, tokens in (
                ("thinking", 1.0, 20),
                ("non_thinking", 1.0, 4),
                ("non_thinking", 0.0, 6),
            )
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"step-{step:05d}.parquet")


def reject(run: Path, question: str, **changes: Any) -> None:
    """Takes a kept question out of the published version, as if it had been rejected after its
    tag.
    """
    version = run / "curate" / "versions" / "0001"
    rejects, tagged = (
        next((version / "rejects").glob("*.parquet")),
        version / "tags" / "tags.parquet",
    )
    data = next((version / "data").glob("train-*.parquet"))
    rows, old, kept = pq.read_table(data).to_pylist(), pq.read_table(rejects), pq.read_table(tagged)
    [row] = [row for row in rows if row["parent_ids"] == [question]]
    out = [row | {"id": question, "parent_ids": [], "format": "", "detail": ""} | changes]
    pq.write_table(pa.concat_tables([old, pa.Table.from_pylist(out, schema=old.schema)]), rejects)
    pq.write_table(
        pa.Table.from_pylist([each for each in rows if each != row], schema=pq.read_schema(data)),
        data,
    )
    pq.write_table(kept.filter(pc.field("id") != question), tagged)


def _update(store: Store, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("file", "row")))
    kinds = {name: CANDIDATE_SCHEMA.field(name).type for name in names}
    empty: Row = {name: "" if pa.types.is_string(kind) else None for name, kind in kinds.items()}
    empty |= {name: 0 for name in names if name.startswith("n_")}
    store.update(names, [empty | row for row in rows])
