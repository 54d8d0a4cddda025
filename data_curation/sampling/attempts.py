"""Rollouts for tagging: n direct and n thinking attempts a row by the rollout workers that BPO has
too, verified as it does.

    consumes      candidates that are still in
    produces      one `Rollout` an attempt, in a cache of Parquet parts; each engine writes its own
    waits for     one engine start a run; nothing at all if every attempt is in the cache
    interrupted   at most the batch that each engine was working on is sampled again

An attempt is known by (row id, its content, mode, number), and a cache folder by what decides the
model's words (weights and sampling) and what is right (the verifiers' code). One Ray Data job over
a pool of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.curate import RolloutSampling
from bimode.errors import RowNote, UnjudgedError
from bimode.grading.verify import code_digest, is_right
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, GenerationResult, Prompt
from bimode.storage.dataset import Row, row_prompt
from bimode.storage.run_dir import digest_json
from data_curation.sampling.parts import compact, parts_of, write_part
from data_curation.sampling.pool import MAX_ERROR, ROWS_PER_BATCH, run_pool, with_candidates
from data_curation.store import Store

MODES = (Mode.NON_THINKING, Mode.THINKING)
ATTEMPT = ("id", "content", "mode", "attempt")  # what an attempt is known by


@dataclass(frozen=True, slots=True)
class Tagger:
    """The model that is sampled, how, and on what. `digest` is that of its directory; `open_worker`
    makes a rollout worker of it (`generate`), in an actor with the ray.remote options `options`.
    """

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
        """Digest of all that decides what is sampled and what is right; not of how many, how fast
        or where.
        """
        sampling = {
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
        }
        return digest_json(
            [self.digest, sampling, self.dtype, self.max_model_len, self.seed, code_digest()]
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """One verified attempt, e.g. ``Rollout("digits-train-0-7", "9f..", "thinking", 3, True, 31,
    "look : ...", "")``.
    """

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
        ("id", pa.string()),
        ("content", pa.string()),
        ("mode", pa.string()),
        ("attempt", pa.int16()),
        ("passed", pa.bool_()),
        ("num_tokens", pa.int32()),
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)
REQUEST_COLUMNS = [
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
]
REQUEST_COLUMNS += ["content"]


def content_of(row: Row) -> str:
    """Digest of what an attempt at `row` depends on, and its verdict too."""
    return digest_json(
        [row["prompt"], row["image_sha256"], row["answer"], row["verifier"], row["verifier_args"]]
    )


def sample_rollouts(
    store: Store, chosen: pa.Table, tagger: Tagger, cache: Path, on_done: Callable[[int], None]
) -> Path:
    """Sees to it that the cache holds every attempt at the rows of `chosen` (file, row, id,
    content), and returns its folder.

    `on_done` hears of attempts as they come, cached ones at once. Needs a connected Ray where any
    is missing.
    """
    folder, n = cache / tagger.params_hash, tagger.sampling.n
    found = {(r.id, r.content, r.mode, r.attempt) for r in read_cache(folder, ("text",))}
    rows = chosen.select(["file", "row", "id", "content"]).to_pylist()
    for row in rows:
        row["missing"] = [
            [k for k in range(n) if (row["id"], row["content"], mode.value, k) not in found]
            for mode in MODES
        ]
    # cut before what is there is left out, so that after an interruption the same rows meet in an
    # engine, with the same words
    batches = [rows[at : at + ROWS_PER_BATCH] for at in range(0, len(rows), ROWS_PER_BATCH)]
    wanted = [some for batch in batches if (some := [row for row in batch if any(row["missing"])])]
    on_done(
        len(rows) * len(MODES) * n
        - sum(len(each) for some in wanted for row in some for each in row["missing"])
    )
    if wanted:
        for attempts in _run_engine(store.files, wanted, tagger, folder):
            on_done(attempts)
        compact(folder, ATTEMPT)
    return folder


def read_cache(folder: Path, without: Iterable[str] = ()) -> Iterator[Rollout]:
    """The attempts that earlier runs left; parts are written whole, so what is there is sound.
    Failed ones are retried.

    Columns named in `without` are left empty.
    """
    columns = [name for name in ROLLOUT_SCHEMA.names if name not in without]
    for part in parts_of(folder):
        for row in pq.read_table(part, columns=columns).to_pylist():
            if not row["error"]:
                yield Rollout(**(dict.fromkeys(without, "") | row))


class Sampler:
    """One engine of the pool: (file, row, missing attempts) in, verified rollouts in the cache
    out.
    """

    def __init__(self, files: Sequence[Path], tagger: Tagger, folder: Path) -> None:
        self.files, self.tagger, self.folder = files, tagger, folder
        self.worker = tagger.open_worker()

    def __call__(self, batch: pa.Table) -> pa.Table:
        rollouts = self.sample(batch.to_pylist())
        write_part(self.folder, rollouts, ROLLOUT_SCHEMA)
        return pa.table({"attempts": [len(rollouts)]})

    def sample(self, wanted: Sequence[Row]) -> list[Rollout]:
        """The missing attempts at `wanted`."""
        asked = [
            (blanks(row, mode, missing), self._request(row, mode, missing))
            for row, place in with_candidates(self.files, wanted, REQUEST_COLUMNS)
            for mode, missing in zip(MODES, place["missing"], strict=True)
            if missing
        ]
        results = self.worker.generate([request for _, request in asked])
        rollouts: list[Rollout] = []
        for (empty, request), result in zip(asked, results, strict=True):
            with RowNote(request.prompt.id):
                rollouts += _rollouts(empty, request.prompt, result)
        return rollouts

    def _request(self, row: Row, mode: Mode, missing: Sequence[int]) -> GenerationRequest:
        sampling = self.tagger.sampling
        forced = len(self.worker.renderer.tokens.trigger(mode)) - 1
        seed, tokens = (
            int(digest_json([self.tagger.seed, row["id"], mode.value, 0])[:7], 16),
            sampling.max_tokens + forced,
        )
        return GenerationRequest(
            row_prompt(row),
            mode,
            len(missing),
            sampling.temperature,
            tokens,
            seed,
            first=missing[0],
        )


def blanks(row: Row, mode: Mode, missing: Sequence[int]) -> list[Rollout]:
    """The attempts `missing` at `row`, before they are made."""
    return [Rollout(row["id"], row["content"], mode.value, k, False, 0, "", "") for k in missing]


def _rollouts(empty: Sequence[Rollout], prompt: Prompt, result: GenerationResult) -> list[Rollout]:
    """`empty` with the completions and their verdicts, or with the error of a refused prompt."""
    if result.refused:
        return [replace(blank, error=result.refused[:MAX_ERROR]) for blank in empty]
    pairs = zip(empty, result.completions, strict=True)
    return [judged(blank, prompt, completion) for blank, completion in pairs]


def judged(blank: Rollout, prompt: Prompt, response: Completion) -> Rollout:
    """`blank` with a response and its verdict."""
    try:
        passed = is_right(response, prompt)
    except UnjudgedError as error:
        return replace(blank, error=str(error)[:MAX_ERROR])
    return replace(blank, passed=passed, num_tokens=response.num_tokens, text=response.text)


def _run_engine(
    files: Sequence[Path], wanted: Sequence[list[Row]], tagger: Tagger, folder: Path
) -> Iterator[int]:
    """One Ray Data job; says how many attempts each batch came to, in whatever order they
    finish.
    """
    yield from run_pool(
        Sampler, (files, tagger, folder), wanted, tagger.sampling.concurrency, tagger.options
    )
