"""Rollouts on real vLLM through Ray Data: every attempt once, verified as in RL, cached in parts,
errors counted.
"""

from __future__ import annotations

from dataclasses import replace
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
from bimode.records import Completion, GenerationRequest, GenerationResult
from bimode.storage.dataset import Row, row_prompt, user_turn
from bimode.storage.run_dir import digest_path
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.sampling import attempts as module
from data_curation.sampling import parts
from data_curation.sampling.attempts import (
    ATTEMPT,
    ROLLOUT_SCHEMA,
    Rollout,
    Sampler,
    Tagger,
    blanks,
    content_of,
    judged,
    read_cache,
    sample_rollouts,
)
from data_curation.sampling.parts import compact, write_part
from data_curation.sources.ingest import write_candidates
from data_curation.sources.shards import DrawnShard
from data_curation.store import Store
from data_curation.traces.generate import Teacher

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


def test_what_decides_the_words_decides_the_cache_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tagger(Path("m"), "digest")
    assert (
        replace(
            one, sampling=one.sampling.model_copy(update={"n": 8, "concurrency": 4})
        ).params_hash
        == one.params_hash
    )
    assert (
        replace(one, sampling=one.sampling.model_copy(update={"max_tokens": 7})).params_hash
        != one.params_hash
    )
    assert (
        replace(one, digest="other").params_hash != one.params_hash
        and replace(one, seed=1).params_hash != one.params_hash
    )
    row: Row = pq.read_table(file).to_pylist()[0]
    assert (
        content_of(row | {"answer": "x"})
        != content_of(row)
        == content_of(row | {"mode": "thinking"})
        == row["content"]
    )
    before = one.params_hash
    monkeypatch.setattr(module, "code_digest", lambda: "another verifier")
    assert one.params_hash != before, "what passed under other code may be wrong now"


def test_parts_are_read_back_put_together_and_failed_attempts_are_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (
        Rollout("a", "c", "thinking", 0, True, 5, "\n</think>", ""),
        Rollout("b", "c", "thinking", 0, False, 0, "", "no"),
    )
    write_part(tmp_path, [good], ROLLOUT_SCHEMA)
    write_part(tmp_path, [bad], ROLLOUT_SCHEMA)
    assert list(read_cache(tmp_path)) == [good]
    assert list(read_cache(tmp_path, ("text",))) == [replace(good, text="")]
    compact(tmp_path, ATTEMPT)
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2, "few parts stay as they are"
    monkeypatch.setattr(parts, "MOST_PARTS", 1)
    write_part(tmp_path, [good, replace(good, attempt=1)], ROLLOUT_SCHEMA)
    compact(tmp_path, ATTEMPT)
    assert len(list(tmp_path.iterdir())) == 1 and list(read_cache(tmp_path)) == [
        good,
        replace(good, attempt=1),
    ]


class Echo:
    """A worker whose answers say what they answer."""

    renderer = PlainCodec()

    def generate(self, requests: list[GenerationRequest]) -> list[GenerationResult]:
        return [self._result(request) for request in requests]

    def _result(self, r: GenerationRequest) -> GenerationResult:
        if r.prompt.id.endswith("-2"):
            return GenerationResult((), "too long")
        return GenerationResult(
            tuple(
                Completion(
                    prompt_id=r.prompt.id,
                    mode=r.mode,
                    prompt_ids=(),
                    token_ids_T=(7,),
                    num_forced=0,
                    logprobs_T=(-1.0,),
                    versions_T=(0,),
                    text=f"{r.prompt.id} {r.mode} {k}",
                    finished=True,
                    worker="echo",
                )
                for k in range(r.first, r.first + r.n)
            )
        )


def test_only_what_is_missing_is_asked_for_and_answers_find_their_attempts(
    file: Path, tmp_path: Path
) -> None:
    first, second, refused, _ = (row["id"] for row in pq.read_table(file).to_pylist())
    missing = {0: [[0, 1], [2]], 1: [[], [0, 1]], 2: [[0, 1], [0, 1]]}
    wanted = pa.Table.from_pylist(
        [{"file": 0, "row": row, "missing": each} for row, each in missing.items()]
    )
    sampler = Sampler([file], replace(tagger(Path("m"), "digest"), open_worker=Echo), tmp_path)
    assert sampler(wanted)["attempts"].to_pylist() == [3 + 2 + 4]
    [part] = tmp_path.glob("part-*.parquet")
    found = pq.read_table(part).to_pylist()
    said = {(r["id"], r["mode"], r["attempt"]): r["text"] or r["error"] for r in found}
    assert len(said) == len(found) == 9 and (first, "thinking", 0) not in said
    assert (
        said[first, "thinking", 2] == f"{first} thinking 2"
    )  # as if all three had been asked for at once
    assert (
        said[first, "non_thinking", 1] == f"{first} non_thinking 1"
        and said[second, "thinking", 1] == f"{second} thinking 1"
    )
    assert {text for (name, _, _), text in said.items() if name == refused} == {"too long"}


def test_an_attempt_that_was_cut_off_has_not_passed(file: Path) -> None:
    """Nor is a teacher's chain right: "2" may be the beginning of "24"."""
    row: Row = pq.read_table(file).to_pylist()[0]
    [prompt], [blank] = [row_prompt(row)], blanks(row, Mode.NON_THINKING, [0])
    [result] = Echo().generate([GenerationRequest(prompt, Mode.NON_THINKING, 2, 1.0, 8, 0)])
    whole, _ = result.completions
    right = replace(whole, text=f"\n\n</think>\n\n{row['answer']}")
    assert (
        judged(blank, prompt, right).passed
        and not judged(blank, prompt, replace(right, finished=False)).passed
    )
    teacher = Teacher(Echo, "wise", "digest", "float32", 256, TraceConfig(model="wise"), 0, {})
    assert [teacher.verdict(row, c) for c in (right, replace(right, finished=False), whole)] == [
        "right",
        "cut_off",
        "wrong",
    ]


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
    model, received = tagger(tiny_llava, digest_path(tiny_llava)), []
    cache = sample_rollouts(store, chosen, model, tmp_path / "cache", received.append)
    found = list(read_cache(cache))
    by_id = {row["id"]: row for row in rows}
    keys = {(r.id, r.mode, r.attempt) for r in found}
    assert sum(received) == 4 * 2 * 2 and len(found) == len(keys) == 3 * 2 * 2
    assert {r.id for r in found} == {row["id"] for row in rows[:3]}
    for r in found:
        assert r.text.startswith("\n\n</think>" if r.mode == "non_thinking" else "\n")
        assert r.num_tokens <= 6 + (2 if r.mode == "non_thinking" else 1)
        assert r.passed is is_correct(r.text, by_id[r.id]["answer"], "exact", "{}")
    assert (
        len({r.text for r in found if r.id == rows[0]["id"] and r.mode == "thinking"}) == 2
    )  # seeds differ

    def no_engine(*_: object) -> Any:
        raise AssertionError("the engine was started for attempts that are in the cache")

    monkeypatch.setattr(module, "_run_engine", no_engine)
    assert (
        sample_rollouts(store, chosen.slice(0, 3), model, tmp_path / "cache", received.append)
        == cache
    )
    assert sum(received) == 4 * 2 * 2 + 3 * 2 * 2
