"""Rollouts for tagging: n direct and n thinking attempts a row, on real vLLM through `ray.data.llm`, verified where they land.

    consumes      rows that are still in
    produces      one `Rollout` an attempt, also appended to a cache in parts
    waits for     one engine start a run; nothing at all if every attempt is in the cache
    interrupted   what the parts hold is not sampled again

An attempt is known by (row id, its content, mode, number), and a cache folder by what decides the model's words (weights
and sampling). `ray.data.llm` keeps the first output of a request, so n attempts are n requests; vLLM's prefix and image
caches make the shared prompt cheap.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bimode.codec import Codec, ModelKind
from bimode.config import RolloutSampling
from bimode.dataset import Row, row_prompt
from bimode.modes import Mode
from bimode.rundir import digest_json
from bimode.verify import is_correct

MODES = (Mode.NON_THINKING, Mode.THINKING)
ROWS_PER_TASK = 16
PART_ROWS = 1000
PART_SECONDS = 20.0
BATCHED_TOKENS = 4096  # of one engine step


@dataclass(frozen=True, slots=True)
class Tagger:
    """The model that is sampled, how, and on what. `digest` is that of its directory, `implementation` vLLM's `model_impl`."""

    model_dir: Path
    name: str
    digest: str
    kind: ModelKind
    implementation: str
    dtype: str
    max_model_len: int
    sampling: RolloutSampling
    seed: int
    num_cpus: float
    num_gpus: float

    @property
    def params_hash(self) -> str:
        """Digest of all that decides what is sampled; not of how many, how fast or where."""
        sampling = {"temperature": self.sampling.temperature, "max_tokens": self.sampling.max_tokens}
        return digest_json([self.digest, sampling, self.dtype, self.max_model_len, self.seed])


@dataclass(frozen=True, slots=True)
class Rollout:
    """One verified attempt, e.g. ``Rollout("digits-train-0-7", "9f..", "thinking", 3, True, 31, "look : ...", "")``."""

    id: str
    content: str
    mode: str
    attempt: int
    passed: bool
    num_tokens: int  # after <think>, the forced ones counted
    text: str  # after <think>
    error: str  # the engine's, "" where it answered


ROLLOUT_SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("content", pa.string()), ("mode", pa.string()), ("attempt", pa.int16()),
        ("passed", pa.bool_()), ("num_tokens", pa.int32()), ("text", pa.string()), ("error", pa.string()),
    ]
)  # fmt: skip

REQUEST_COLUMNS = ["id", "images", "prompt", "answer", "verifier", "verifier_args", "task", "level", "mode", "mode_reason"]
REQUEST_COLUMNS += ["image_sha256"]


def content_of(row: Row) -> str:
    """Digest of what an attempt at `row` depends on, and its verdict too."""
    return digest_json([row["prompt"], row["image_sha256"], row["answer"], row["verifier"], row["verifier_args"]])


def sample_rollouts(rows: pa.Table, tagger: Tagger, cache: Path, on_done: Callable[[int], None]) -> list[Rollout]:
    """All attempts at `rows`, from the cache or from the engine, ordered by id, mode and attempt.

    `on_done` hears of attempts as they come, cached ones at once. Needs a connected Ray.
    """
    rows = rows.select(REQUEST_COLUMNS)
    wanted = {(row["id"], content_of(row)) for row in rows.to_pylist()}
    folder = cache / tagger.params_hash
    found = {_key(r): r for r in read_cache(folder) if (r.id, r.content) in wanted and r.attempt < tagger.sampling.n}
    on_done(len(found))
    if len(found) < len(wanted) * len(MODES) * tagger.sampling.n:
        part = PartWriter(folder)
        for rollout in _run_engine(rows, tagger, frozenset(found)):
            found[_key(rollout)] = rollout
            part.add(rollout)
            on_done(1)
        part.flush()
    return [found[key] for key in sorted(found)]


def _key(rollout: Rollout) -> tuple[str, str, int]:
    return rollout.id, rollout.mode, rollout.attempt


def read_cache(folder: Path) -> Iterator[Rollout]:
    """The attempts that earlier runs left; parts are written whole, so what is there is sound. Failed ones are retried."""
    for part in sorted(folder.glob("part-*.parquet")):
        for row in pq.read_table(part, schema=ROLLOUT_SCHEMA).to_pylist():
            if not row["error"]:
                yield Rollout(**row)


class PartWriter:
    """Appends rollouts as numbered Parquet parts, every `PART_ROWS` rows or `PART_SECONDS` seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._written = folder, time.monotonic()
        self._rows: list[Rollout] = []

    def add(self, rollout: Rollout) -> None:
        """Keeps `rollout` until the part is due."""
        self._rows.append(rollout)
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._written >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is held: under a hidden name first, so that a part is never half there."""
        if self._rows:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"part-{len(list(self._folder.glob('part-*.parquet'))):05d}.parquet"
            pq.write_table(rollout_table(self._rows), self._folder / f".{name}", compression="zstd")
            (self._folder / f".{name}").replace(self._folder / name)
        self._rows, self._written = [], time.monotonic()


def rollout_table(rollouts: Iterable[Rollout]) -> pa.Table:
    """`rollouts` as a narrow table."""
    return pa.Table.from_pylist([asdict(r) for r in rollouts], schema=ROLLOUT_SCHEMA)


@dataclass(frozen=True, slots=True)
class Requests:
    """Rows -> one request row an attempt that is not yet done. Runs in Ray Data tasks."""

    codec: Codec
    tagger: Tagger
    done: frozenset[tuple[str, str, int]]

    def __call__(self, batch: pa.Table) -> Iterator[dict[str, list[Any]]]:
        requests = [request for row in batch.to_pylist() for request in self._requests(row)]
        yield {name: [request[name] for request in requests] for name in requests[0]} if requests else {}

    def _requests(self, row: Row) -> Iterator[Row]:
        prompt = row_prompt(row)
        for mode in MODES:
            text = self.codec.prompt_text(prompt.question, len(prompt.images), mode)
            for attempt in range(self.tagger.sampling.n):
                if (prompt.id, mode.value, attempt) not in self.done:
                    yield {
                        "id": prompt.id, "content": content_of(row), "mode": mode.value, "attempt": attempt,
                        "answer": prompt.answer, "verifier": prompt.verifier, "verifier_args": prompt.verifier_args,
                        "prompt": text, "pictures": list(prompt.images),
                        "seed": int(digest_json([self.tagger.seed, prompt.id, mode.value, attempt])[:7], 16),
                    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToEngine:
    """A request row -> what vLLM's stage reads: decoded images and sampling parameters."""

    sampling: RolloutSampling
    stop_id: int

    def __call__(self, row: Row) -> Row:
        params = {
            "temperature": self.sampling.temperature, "max_tokens": self.sampling.max_tokens, "seed": int(row["seed"]),
            "stop_token_ids": [self.stop_id], "ignore_eos": True, "detokenize": False,
        }  # fmt: skip
        if len(row["pictures"]) == 0:
            return {"sampling_params": params}
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in row["pictures"]]
        return {"sampling_params": params, "multimodal_data": {"image": images if len(images) > 1 else images[0]}}


@dataclass(frozen=True, slots=True)
class FromEngine:
    """vLLM's output -> a verified `Rollout` row. The text is decoded as in RL: from <think> on, forced tokens included."""

    codec: Codec

    def __call__(self, row: Row) -> Row:
        ids = (*self.codec.tokens.trigger(Mode(row["mode"]))[1:], *(int(i) for i in row["generated_tokens"]))
        text = self.codec.decode_response(ids)
        return {
            "id": row["id"], "content": row["content"], "mode": row["mode"], "attempt": int(row["attempt"]),
            "passed": is_correct(text, row["answer"], row["verifier"], row["verifier_args"]), "num_tokens": len(ids),
            "text": text, "error": "",
        }  # fmt: skip


def _run_engine(rows: pa.Table, tagger: Tagger, done: frozenset[tuple[str, str, int]]) -> Iterator[Rollout]:
    """Streams attempts out of one Ray Data job, in whatever order they finish."""
    import ray

    codec = Codec(tagger.model_dir)
    blocks = [rows.slice(at, ROWS_PER_TASK) for at in range(0, rows.num_rows, ROWS_PER_TASK)]
    requests = ray.data.from_arrow(blocks).map_batches(
        Requests(codec, tagger, done).__call__, batch_format="pyarrow", batch_size=None
    )
    answered = _processor(codec, tagger)(requests)
    for batch in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            if row.get("__inference_error__"):
                row |= {"passed": False, "num_tokens": 0, "text": "", "error": str(row["__inference_error__"])[:300]}
            yield Rollout(**{field.name: row[field.name] for field in fields(Rollout)})


def _processor(codec: Codec, tagger: Tagger) -> Any:
    """vLLM as a Ray Data stage. Its own template, tokenizer and image stages are off: our codec has done their work."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    sampling, gpu = tagger.sampling, tagger.num_gpus > 0
    bundle = {"CPU": tagger.num_cpus} | ({"GPU": tagger.num_gpus} if gpu else {})
    config = vLLMEngineProcessorConfig(
        model_source=str(tagger.model_dir),
        engine_kwargs={
            "dtype": tagger.dtype, "max_model_len": tagger.max_model_len, "max_num_seqs": sampling.batch_size,
            "enforce_eager": not gpu, "model_impl": tagger.implementation, "seed": tagger.seed,
            # A prompt is prefilled whole: of a part, vLLM 0.32 rewinds the seeded generator, and dies of it on the CPU.
            "enable_chunked_prefill": False, "disable_chunked_mm_input": True,
            "max_num_batched_tokens": max(BATCHED_TOKENS, tagger.max_model_len),
        },
        batch_size=sampling.batch_size,
        concurrency=sampling.concurrency,
        max_concurrent_batches=2,  # the next batch fills the gaps of the last one's tail
        accelerator_type=None,
        placement_group_config={"bundles": [bundle]},
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        prepare_multimodal_stage=False,
    )  # fmt: skip
    to_engine = ToEngine(sampling, codec.eos_id)
    logging.disable(logging.INFO)  # it calls ray.init again, and tells of it and of a cloud mirror that nobody asked for
    try:
        return build_processor(config, preprocess=to_engine.__call__, postprocess=FromEngine(codec).__call__)
    finally:
        logging.disable(logging.NOTSET)
