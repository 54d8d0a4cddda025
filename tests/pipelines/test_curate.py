"""Curation of files, whole: what is new costs itself, a reader sees whole versions, every row is
kept or rejected; real vLLM.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.curate import SourceConfig
from bimode.config.recipe import Recipe
from bimode.storage.versions import VersionedDir
from data_curation.demo import family_of
from data_curation.publishing.report import ReportContext
from data_curation.publishing.row_history import load_history
from pipelines import curate
from tests.data_curation.flow import candidate_files, decided

OPEN = [
    {
        "q": "Describe the picture for somebody who cannot see it.",
        "a": "A strip with a few digits that someone wrote by hand.",
    },
    {
        "q": "Why does a mirror swap left and right only?",
        "a": "It swaps front and back, and we turn around to compare.",
    },
]


def write_digits(
    file: Path, start: int, stop: int, split: str = "train", images: int = 1, words: int = 0
) -> None:
    """Digit strips in somebody else's columns, each with so many `images`, and so many `words`
    behind its question.
    """
    more = "".join(f" w{k}" for k in range(words))
    draw = family_of(SourceConfig(family="digits"))
    samples = [draw(index, split, 0, (0.5, 0.3, 0.2)) for index in range(start, stop)]
    table = {
        "query": [s.question + more for s in samples],
        "label": [s.answer for s in samples],
        "why": [s.trace for s in samples],
        "image": [[{"bytes": s.images[0], "path": None}] * images for s in samples],
        "uid": [s.id for s in samples],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), file)


def recipe_of(folder: Path, base: Path, **changes: Any) -> Recipe:
    columns = {
        "question": "query",
        "answer": "label",
        "images": "image",
        "trace": "why",
        "id": "uid",
    }
    sources = [
        {
            "path": str(folder / split),
            "split": split,
            "columns": columns,
            "name": split,
            "verifier": "exact",
        }
        for split in ("train", "rl", "eval")
    ]
    lines = {
        "path": str(folder / "open.jsonl"),
        "columns": {"question": "q", "answer": "a"},
        "name": "open",
    }
    made = {"sources": [*sources, lines], "rollouts": {"n": 2, "max_tokens": 6}} | changes
    return Recipe.of(
        {"name": "files", "model": {"base": str(base), "max_model_len": 128}, "curate": made}
    )


def run(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The stage as the harness runs it; returns its manifest."""
    stage = VersionedDir(folder, "curate")
    inputs = curate.inputs(recipe, folder)
    curate.check(recipe, inputs)
    digests = stage.input_digests(inputs)
    stage.begin()
    result = curate.execute(recipe, stage, inputs)
    stage.seal(curate.config(recipe), digests, result.outputs, result.counts, time.monotonic())
    assert stage.is_current(
        curate.config(recipe), stage.input_digests(curate.inputs(recipe, folder))
    )
    manifest: dict[str, Any] = json.loads(stage.manifest.read_text())
    return manifest


def attempts(folder: Path) -> list[tuple[str, str, int]]:
    return replies(folder, "rollouts")


def replies(folder: Path, kind: str = "judge") -> list[tuple[str, str, int]]:
    parts = sorted((folder / "cache" / kind).rglob("*.parquet"))
    return [
        (r["id"], r["mode"], r["number"]) for part in parts for r in pq.read_table(part).to_pylist()
    ]


def test_what_a_run_without_anything_to_publish_has_rejected_can_be_looked_into(
    tmp_path: Path,
) -> None:
    """Nothing that a reader sees changes: there is no version, and `bimode explain` tells the rows
    all the same.
    """
    stage = VersionedDir(tmp_path, "curate")
    stage.begin()
    store = decided(candidate_files(tmp_path / "candidates"), stage.work / ".scratch")
    rows = store.table(["file", "row", "id"], "true", "file, row").to_pylist()
    none = (row | {"reason": "no_trace"} for row in rows)
    store.update(["reason"], none)
    told = curate.leave_rejects(store, stage, ReportContext())
    assert str(stage.path / "unpublished") in told and not stage.work.exists()
    story = load_history(tmp_path, rows[0]["id"])
    assert (story.version, story.rows[0].reason, story.history) == (
        "unpublished",
        "no_trace",
        {"unpublished": "no_trace"},
    )
    assert sorted(path.name for path in (stage.path / "unpublished").iterdir()) == [
        "rejects",
        "report.html",
        "tags",
    ]
    assert sorted(path.name for path in stage.path.iterdir()) == ["unpublished", "versions"]


@pytest.mark.ray
@pytest.mark.slow
def test_files_are_curated_and_new_ones_cost_themselves(
    ray_local: Any, tiny_llava: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "files", tmp_path / "out"
    for split, stop in (("train", 6), ("rl", 2), ("eval", 3)):
        write_digits(folder / split / "0.parquet", 0, stop, split)
    write_digits(folder / "train" / "five.parquet", 20, 21, images=5)
    write_digits(folder / "rl" / "long.parquet", 20, 21, "rl", words=150)
    lines = [*OPEN, {"q": "What fills a batch up ?", "a": "<pad>"}]  # of the base's own list
    (folder / "open.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + "{broken\n"
    )
    judged = {
        "model": str(tiny_llava),
        "votes": 1,
        "retries": 0,
        "max_tokens": 4,
        "max_model_len": 256,
    }
    recipe = recipe_of(folder, tiny_llava, paired_share=1.0, judge=judged, traces={"model": "base"})
    first = run(recipe, out)["counts"]
    assert first["rows"] == {
        "train": 12,
        "rl": 2,
        "eval": 3,
    }, "every row has a trace of its own: the teacher is not asked"
    unclear = {"judge_unclear": 2}  # a model with random weights says neither word
    refused = {"control_token": 1, "long_prompt": 1, "too_many_images": 1}
    assert first["rejects"] == {"bad_record": 1, **refused, **unclear}
    rejects = pq.read_table(out / "curate" / "rejects").to_pylist()
    told = {row["id"]: (row["split"], row["reason"], row["detail"]) for row in rejects}
    assert told["train-digits-train-0-20"] == ("train", "too_many_images", "5 images, at most 4")
    split, reason, detail = told["rl-digits-rl-0-20"]
    assert (split, reason) == ("rl", "long_prompt")
    assert detail.endswith(" tokens, at most 125 (max_model_len = 128, 3 of them for the response)")
    votes = pq.read_table(out / "curate" / "tags" / "verdicts.parquet").to_pylist()
    assert [(vote["mode"], vote["unparsed"]) for vote in votes] == [("", 1), ("", 1)]
    assert len(attempts(out)) == len(set(attempts(out))) == 6 * 2 * 2
    before = (out / "curate" / "versions" / "0001" / "data").resolve()

    write_digits(
        folder / "train" / "1.parquet", 5, 8
    )  # its first row stands in the other file already
    second = run(recipe, out)["counts"]
    assert second["rows"]["train"] == 16 and second["rejects"]["duplicate_id"] == 1
    made = attempts(out)
    assert len(made) == len(set(made)) == 8 * 2 * 2, "only the two new questions were sampled"
    assert len(asked := replies(out)) == len(set(asked)), "the judge was asked for each row once"
    assert before.is_dir() and pq.read_table(before / "train-00000-of-00001.parquet").num_rows == 12
    shown = pq.read_table(out / "curate" / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert {row["source"] for row in shown} == {"train"} and shown[0]["source_refs"][0].startswith(
        "0.parquet#"
    )
    assert sorted(path.name for path in (out / "curate" / "versions").iterdir()) == ["0001", "0002"]


def test_how_fast_data_is_found_makes_no_new_version_of_it(tmp_path: Path) -> None:
    """Nor how many versions stay; how the model is sampled does."""
    config = curate.config(recipe_of(tmp_path, tmp_path))
    sampling = {"n": 2, "max_tokens": 6}
    faster = {
        "rollouts": {**sampling, "concurrency": 2},
        "judge": {"concurrency": 3},
        "traces": {"concurrency": 4},
    }
    assert curate.config(recipe_of(tmp_path, tmp_path, **faster, keep_versions=9)) == config
    assert curate.config(recipe_of(tmp_path, tmp_path, rollouts={**sampling, "n": 3})) != config
