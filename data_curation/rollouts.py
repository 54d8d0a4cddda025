"""Rollouts for tagging: n direct and n thinking attempts a row by the rollout workers that BPO has too, verified as it does.

    consumes      rows that are still in
    produces      one `Rollout` an attempt, also appended to a cache in parts
    waits for     one engine start a run; nothing at all if every attempt is in the cache
    interrupted   what the parts hold is not sampled again

An attempt is known by (row id, its content, mode, number), and a cache folder by what decides the model's words (weights
and sampling). One Ray Data job over a pool of engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config import RolloutSampling
from bimode.dataset import Row, row_prompt
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, Prompt
from bimode.rundir import digest_json
from bimode.verify import is_correct

MODES = (Mode.NON_THINKING, Mode.THINKING)
ROWS_PER_BATCH = 32  # that an engine works on at a time; what an interruption costs
PART_ROWS = 1000
PART_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Tagger:
    """The model that is sampled, how, and on what. `digest` is that of its directory; `open_worker` makes a rollout worker of it
    (`refusal`, `generate`), in an actor with the ray.remote options `options`."""

    open_worker: Callable[[], Any]
    name: str
    digest: str
    dtype: str
    max_model_len: int
    sampling: RolloutSampling
    seed: int
    options: Mapping[str, Any]

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
        try:
            for rollouts in _run_engine(rows, tagger, frozenset(found)):
                found |= {_key(rollout): rollout for rollout in rollouts}
                part.add(rollouts)
                on_done(len(rollouts))
        finally:
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

    def add(self, rollouts: Sequence[Rollout]) -> None:
        """Keeps `rollouts` until the part is due; they come into the same part, as they were sampled together."""
        self._rows += rollouts
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._written >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is held: under a hidden name first, so that a part is never half there."""
        if self._rows:
            self._folder.mkdir(parents=True, exist_ok=True)
            last = max((int(part.stem.removeprefix("part-")) for part in self._folder.glob("part-*.parquet")), default=-1)
            name = f"part-{last + 1:05d}.parquet"
            pq.write_table(rollout_table(self._rows), self._folder / f".{name}", compression="zstd")
            (self._folder / f".{name}").replace(self._folder / name)
        self._rows, self._written = [], time.monotonic()


def rollout_table(rollouts: Iterable[Rollout]) -> pa.Table:
    """`rollouts` as a narrow table."""
    return pa.Table.from_pylist([asdict(r) for r in rollouts], schema=ROLLOUT_SCHEMA)


class Sampler:
    """Rows -> verified attempts that are not `there` yet. An actor of Ray Data; what is missing of a mode is one request."""

    def __init__(self, tagger: Tagger, there: frozenset[tuple[str, str, int]]) -> None:
        self.tagger, self.there = tagger, there
        self.worker = tagger.open_worker()

    def __call__(self, batch: pa.Table) -> pa.Table:
        asked = [
            (blanks, self._request(row, mode, blanks))
            for row in batch.to_pylist()
            for mode in MODES
            if (blanks := self._blanks(row, mode))
        ]
        refused = [self.worker.refusal(request)[:300] for _, request in asked]
        sound = [request for (_, request), why in zip(asked, refused, strict=True) if not why]
        drawn = iter(self.worker.generate(sound) if sound else ())
        return rollout_table(
            replace(blank, error=why) if why else judged(blank, request.prompt, next(drawn))
            for (blanks, request), why in zip(asked, refused, strict=True)
            for blank in blanks
        )

    def _blanks(self, row: Row, mode: Mode) -> list[Rollout]:
        """The missing attempts."""
        wanted = range(self.tagger.sampling.n)
        missing = [k for k in wanted if (row["id"], mode.value, k) not in self.there]
        return [Rollout(row["id"], content_of(row), mode.value, k, False, 0, "", "") for k in missing]

    def _request(self, row: Row, mode: Mode, blanks: Sequence[Rollout]) -> GenerationRequest:
        sampling = self.tagger.sampling
        forced = len(self.worker.codec.tokens.trigger(mode)) - 1
        seed = int(digest_json([self.tagger.seed, row["id"], mode.value, blanks[0].attempt])[:7], 16)
        return GenerationRequest(row_prompt(row), mode, len(blanks), sampling.temperature, sampling.max_tokens + forced, seed)


def judged(blank: Rollout, prompt: Prompt, response: Completion) -> Rollout:
    """`blank` with a response and its verdict."""
    passed = is_correct(response.text, prompt.answer, prompt.verifier, prompt.verifier_args)
    return replace(blank, passed=passed, num_tokens=response.num_tokens, text=response.text)


def _run_engine(rows: pa.Table, tagger: Tagger, there: frozenset[tuple[str, str, int]]) -> Iterator[list[Rollout]]:
    """Streams batches of attempts out of one Ray Data job, in whatever order they finish."""
    import ray
    from ray.data import ActorPoolStrategy

    blocks = [rows.slice(at, ROWS_PER_BATCH) for at in range(0, rows.num_rows, ROWS_PER_BATCH)]
    attempts = ray.data.from_arrow(blocks).map_batches(
        Sampler, fn_constructor_args=(tagger, there), compute=ActorPoolStrategy(size=tagger.sampling.concurrency),
        batch_format="pyarrow", batch_size=None, **tagger.options,
    )  # fmt: skip
    for batch in attempts.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield [Rollout(**row) for row in batch.to_pylist()]
