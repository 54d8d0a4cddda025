"""Rollouts on real vLLM through Ray Data: every attempt once, verified as in RL, cached in parts,
errors counted.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.peers.simulated import PlainCodec
from bimode.config.curate import CurateConfig, RolloutSampling, SourceConfig, TraceConfig
from bimode.grading.verify import is_correct
from bimode.modes import Mode
from bimode.records import GenerationRequest, GenerationResult
from bimode.storage.dataset import Row, row_prompt, user_turn
from bimode.storage.run_dir import digest_path
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.sampling import attempts as module
from data_curation.sampling import cache, prompt_job
from data_curation.sampling.attempts import Tagger, content_of
from data_curation.sampling.cache import REFUSED, Reply, compact, read_replies, write_replies
from data_curation.sampling.prompt_job import PromptWorker, missing_rows, run_job
from data_curation.sources.ingest import write_candidates
from data_curation.sources.shards import DrawnShard
from data_curation.store import Store
from data_curation.traces.generate import Teacher
from tests.data_curation.flow import completion

SHARD = DrawnShard(SourceConfig(family="digits"), "train", "train", 0, 4, 0, (1.0, 1.0, 1.0))
WANTED = ("file", "row", "id", "content")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_candidates(SHARD, tmp_path / "candidates.parquet", CurateConfig())
    return tmp_path / "candidates.parquet"


def tagger(model: Path, digest: str, n: int = 2) -> Tagger:
    from actors.rollout.worker import RolloutWorker

    opened = partial(
        RolloutWorker,
        "tagger",
        model,
        max_model_len=128,
        dtype="float32",
        seed=0,
        sync="object_store",
    )
    return Tagger(
        opened,
        "tiny",
        digest,
        "float32",
        128,
        RolloutSampling(n=n, max_tokens=6),
        0,
        {"num_cpus": 1.0},
    )


def teacher() -> Teacher:
    return Teacher(Echo, "wise", "digest", "float32", 256, TraceConfig(model="wise"), 0, {})


def rows_of(file: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(file).to_pylist()
    return rows


def test_what_decides_the_words_decides_the_cache_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tagger(Path("m"), "digest")

    def other(**change: Any) -> str:
        return replace(one, config=one.config.model_copy(update=change)).params_hash

    assert other(n=8, concurrency=4) == one.params_hash != other(max_tokens=7)
    assert one.params_hash not in (
        replace(one, digest="other").params_hash,
        replace(one, seed=1).params_hash,
    )
    row: Row = pq.read_table(file).to_pylist()[0]
    assert content_of(row | {"answer": "x"}) != content_of(row) == row["content"]
    assert content_of(row | {"mode": "thinking"}) == row["content"]
    before = one.params_hash
    monkeypatch.setattr(module, "code_digest", lambda: "another verifier")
    assert one.params_hash != before, "what passed under other code may be wrong now"


def test_parts_are_read_back_merged_and_failed_attempts_are_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Reply("a", "c", "thinking", 0, 0, "right", 1.0, 5, "\n</think>", "")
    bad = replace(good, id="b", verdict="", text="", error="no")
    chosen = pa.table({"id": ["a", "b"], "content": ["c", "c"], "file": [0, 0], "row": [0, 1]})
    write_replies(tmp_path, [good])
    write_replies(tmp_path, [bad])
    assert [replies for _, replies in read_replies(tmp_path, chosen)] == [[good], [bad]]
    [rows] = missing_rows(chosen, tagger(Path("m"), "digest"), tmp_path)
    asked = [(row["id"], row["request_mode"], row["first"], row["missing"]) for row in rows]
    assert asked == [
        ("a", "non_thinking", 0, 2),
        ("a", "thinking", 1, 1),
        ("b", "non_thinking", 0, 2),
        ("b", "thinking", 0, 2),
    ]
    compact(tmp_path)
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2, "few parts stay as they are"
    monkeypatch.setattr(cache, "MOST_PARTS", 1)
    more = [good, replace(good, number=1)]
    write_replies(tmp_path, more)
    compact(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert [replies for _, replies in read_replies(tmp_path, chosen)] == [more, []]


class Echo:
    """A worker whose answers say what they answer."""

    renderer = PlainCodec()

    def generate(self, requests: list[GenerationRequest]) -> list[GenerationResult]:
        return [self._result(request) for request in requests]

    def _result(self, r: GenerationRequest) -> GenerationResult:
        if r.prompt.id.endswith("-2"):
            return GenerationResult((), "too long")
        numbers = range(r.first, r.first + r.n)
        return GenerationResult(
            tuple(completion(r, f"{r.prompt.id} {r.mode} {number}") for number in numbers)
        )


def test_only_what_is_missing_is_asked_for_and_answers_find_their_attempts(
    file: Path, tmp_path: Path
) -> None:
    first, second, refused, _ = (row["id"] for row in pq.read_table(file).to_pylist())
    missing = [
        (0, "non_thinking", 0, 2),
        (0, "thinking", 2, 1),
        (1, "thinking", 0, 2),
        (2, "non_thinking", 0, 2),
    ]
    names = ("row", "request_mode", "first", "missing")
    state = {"file": 0, "content": "c", "round": 0, "sound": 0}
    ids = (first, second, refused)
    wanted = [
        state | dict(zip(names, each, strict=True)) | {"id": ids[each[0]]} for each in missing
    ]
    job = replace(tagger(Path("m"), "digest", n=3), open_worker=Echo)
    worker = PromptWorker([file], job, tmp_path)
    assert worker(pa.Table.from_pylist(wanted[2:]))["settled"].to_pylist() == [2]
    [part] = tmp_path.glob("part-*.parquet")
    found = pq.read_table(part).to_pylist() + [
        asdict(reply) for reply in worker.run_batch([rows_of(file)[0] | row for row in wanted[:2]])
    ]
    said = {(r["id"], r["mode"], r["number"]): r["text"] or r["error"] for r in found}
    assert said == {
        (first, "non_thinking", 0): f"{first} non_thinking 0",
        (first, "non_thinking", 1): f"{first} non_thinking 1",
        (first, "non_thinking", 2): f"{first} non_thinking 2",
        (first, "thinking", 2): f"{first} thinking 2",
        (second, "thinking", 0): f"{second} thinking 0",
        (second, "thinking", 1): f"{second} thinking 1",
        (second, "thinking", 2): f"{second} thinking 2",
        (refused, "non_thinking", REFUSED): "too long",
    }, "as if all of them had been drawn at once"


def test_an_attempt_that_was_cut_off_has_not_passed(file: Path) -> None:
    """Nor is a teacher's chain right: "2" may be the beginning of "24"."""
    row: Row = rows_of(file)[0]
    request = GenerationRequest(row_prompt(row), Mode.NON_THINKING, 1, 1.0, 8, 0)
    [result] = Echo().generate([request])
    [whole] = result.completions
    right = replace(whole, text=f"\n\n</think>\n\n{row['answer']}")
    for job in (tagger(Path("m"), "digest"), teacher()):
        verdicts = [job.verdict(row, c) for c in (right, replace(right, finished=False), whole)]
        assert verdicts == ["right", "cut_off", "wrong"]


@pytest.mark.ray
def test_attempts_are_sampled_once_verified_and_an_impossible_row_is_an_error_not_an_end(
    ray_local: Any, tiny_llava: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(file).to_pylist()
    rows[3] |= {"prompt": user_turn("what " * 200, 1)}
    rows[3] |= {"content": content_of(rows[3])}
    pq.write_table(pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA), file)
    store = Store([file], tmp_path / "scratch")
    chosen = store.table(WANTED)
    model, received = tagger(tiny_llava, digest_path(tiny_llava)), list[int]()
    folder = run_job(store.files, chosen, model, tmp_path / "cache", received.append)
    by_id = {row["id"]: row for row in rows}
    made = [reply for _, replies in read_replies(folder, chosen) for reply in replies]
    found = [reply for reply in made if not reply.error]
    keys = {(r.id, r.mode, r.number) for r in found}
    assert sum(received) == 4 * 2 and len(found) == len(keys) == 3 * 2 * 2
    assert {r.id for r in found} == {row["id"] for row in rows[:3]}
    for r in found:
        assert r.text.startswith("\n\n</think>" if r.mode == "non_thinking" else "\n")
        assert r.num_tokens <= 6 + (2 if r.mode == "non_thinking" else 1)
        right = is_correct(r.text, by_id[r.id]["answer"], "exact", "{}")
        assert (r.verdict == "right") is (right and r.verdict != "cut_off")
    thoughts = {r.text for r in found if r.id == rows[0]["id"] and r.mode == "thinking"}
    assert len(thoughts) == 2, "seeds differ"

    def no_engine(*_: object) -> Any:
        raise AssertionError("the engine was started for attempts that are in the cache")

    monkeypatch.setattr(prompt_job, "run_pool", no_engine)
    some = chosen.slice(0, 3)
    assert run_job(store.files, some, model, tmp_path / "cache", received.append) == folder
    assert sum(received) == 4 * 2 + 3 * 2
