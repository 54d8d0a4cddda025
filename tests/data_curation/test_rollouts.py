"""Rollouts on real vLLM through Ray Data: every attempt once, verified as in RL, cached in parts, errors counted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.peers.simulated import PlainCodec
from bimode.config import RolloutSampling, SourceConfig
from bimode.dataset import user_turn
from bimode.records import Completion, GenerationRequest
from bimode.rundir import digest_path
from bimode.verify import is_correct
from data_curation import rollouts as module
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.rollouts import PartWriter, Rollout, Sampler, Tagger, content_of, read_cache, sample_rollouts
from data_curation.sources import Draw, draw_row

DRAW = Draw(SourceConfig(family="digits"), "train", "train", 4)


def rows(count: int) -> list[dict[str, Any]]:
    return [draw_row(DRAW, i, 0, (1.0, 1.0, 1.0)) for i in range(count)]


def tagger(model: Path, digest: str, n: int = 2) -> Tagger:
    from actors.rollout_worker import RolloutWorker

    opened = partial(RolloutWorker, "tagger", model, max_model_len=128, dtype="float32", seed=0, sync="object_store")
    return Tagger(opened, "tiny", digest, "float32", 128, RolloutSampling(n=n, max_tokens=6), 0, {"num_cpus": 1.0})


def test_what_decides_the_words_decides_the_cache_and_nothing_else() -> None:
    one = tagger(Path("m"), "digest")
    assert replace(one, sampling=one.sampling.model_copy(update={"n": 8, "concurrency": 4})).params_hash == one.params_hash
    assert replace(one, sampling=one.sampling.model_copy(update={"max_tokens": 7})).params_hash != one.params_hash
    assert replace(one, digest="other").params_hash != one.params_hash and replace(one, seed=1).params_hash != one.params_hash
    row = rows(1)[0]
    assert content_of(row | {"answer": "x"}) != content_of(row) == content_of(row | {"mode": "thinking"})


def test_parts_are_read_back_and_failed_attempts_are_retried(tmp_path: Path) -> None:
    part = PartWriter(tmp_path / "cache")
    good, bad = Rollout("a", "c", "thinking", 0, True, 5, "\n</think>", ""), Rollout("b", "c", "thinking", 0, False, 0, "", "no")
    part.add([good])
    part.flush()
    part.add([bad])
    part.flush()
    part.flush()
    assert len(list((tmp_path / "cache").glob("part-*.parquet"))) == 2
    assert list(read_cache(tmp_path / "cache")) == [good]
    (tmp_path / "cache" / "part-00000.parquet").unlink()
    part.add([replace(good, attempt=1)])
    part.flush()
    assert [part.name for part in sorted((tmp_path / "cache").iterdir())] == ["part-00001.parquet", "part-00002.parquet"]


class Echo:
    """A worker whose answers say what they answer."""

    codec = PlainCodec()

    def refusal(self, request: GenerationRequest) -> str:
        return "too long" if request.prompt.id.endswith("-2") else ""

    def generate(self, requests: list[GenerationRequest]) -> list[Completion]:
        return [
            Completion(
                prompt_id=r.prompt.id, mode=r.mode, prompt_ids=(), token_ids_T=(7,), num_forced=0, logprobs_T=(-1.0,),
                versions_T=(0,), text=f"{r.prompt.id} {r.mode} {k}", finished=True, worker="echo",
            )
            for r in requests
            for k in range(r.n)
        ]  # fmt: skip


def test_only_what_is_missing_is_asked_for_and_answers_find_their_attempts() -> None:
    made = rows(3)
    first, second, refused = (row["id"] for row in made)
    there = frozenset({(first, "thinking", 1), (second, "non_thinking", 0), (second, "non_thinking", 1)})
    asked = replace(tagger(Path("m"), "digest"), open_worker=Echo)
    found = Sampler(asked, there)(pa.Table.from_pylist(made, schema=CANDIDATE_SCHEMA)).to_pylist()
    said = {(r["id"], r["mode"], r["attempt"]): r["text"] or r["error"] for r in found}
    assert len(said) == len(found) == 3 * 2 * 2 - len(there) and there.isdisjoint(said)
    assert said[first, "non_thinking", 1] == f"{first} non_thinking 1" and said[first, "thinking", 0] == f"{first} thinking 0"
    assert {text for (name, _, _), text in said.items() if name == refused} == {"too long"}


@pytest.mark.ray
def test_attempts_are_sampled_once_verified_and_an_impossible_row_is_an_error_not_an_end(
    ray_local: Any, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = rows(3)
    too_long = rows(4)[3] | {"prompt": user_turn("what " * 200, 1)}
    table = pa.Table.from_pylist([*sound, too_long], schema=CANDIDATE_SCHEMA)
    model, heard = tagger(tiny_llava, digest_path(tiny_llava)), []
    found = sample_rollouts(table, model, tmp_path, heard.append)
    by_id = {row["id"]: row for row in sound}
    keys = {(r.id, r.mode, r.attempt) for r in found}
    assert len(found) == len(keys) == sum(heard) == 4 * 2 * 2
    assert {r.id for r in found if r.error} == {too_long["id"]}
    for r in found:
        if not r.error:
            assert r.text.startswith("\n\n</think>" if r.mode == "non_thinking" else "\n")
            assert r.num_tokens <= 6 + (2 if r.mode == "non_thinking" else 1)
            assert r.passed is is_correct(r.text, by_id[r.id]["answer"], "exact", "{}")
    assert len({r.text for r in found if r.id == sound[0]["id"] and r.mode == "thinking"}) == 2  # seeds differ

    def no_engine(*_: object) -> Any:
        raise AssertionError("the engine was started for attempts that are in the cache")

    monkeypatch.setattr(module, "_run_engine", no_engine)
    again = sample_rollouts(table.slice(0, 3), model, tmp_path, heard.append)
    assert again == [r for r in found if not r.error]
