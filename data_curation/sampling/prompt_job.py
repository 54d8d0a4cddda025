"""Prompt a model about rows, in rounds, until each row has enough replies.

The tagger (`attempts`), the judge (`tagging.judge`) and the teacher (`traces.generate`) are jobs.

    consumes      candidates that lack replies
    produces      one `Reply` a completion, in a cache of Parquet parts; each engine writes its own
    waits for     one engine start a run; nothing at all if the cache holds enough
    interrupted   at most the batch that each engine was working on is sampled again

The seed of a round follows from the row and the number of the round, so the cache gives what an
undisturbed run would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from bimode.errors import RowNote, UnjudgedError
from bimode.grading.verify import is_right
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, GenerationResult
from bimode.storage.dataset import PROMPT_COLUMNS, Row, row_prompt
from bimode.storage.run_dir import digest_json
from data_curation.sampling.cache import (
    REFUSED,
    Reply,
    compact,
    read_replies,
    write_replies,
)
from data_curation.store import with_candidates
from data_curation.tasks import run_pool

CACHE_FORMAT = 2  # of `Reply`; another one is another folder
ROWS_PER_BATCH = 32  # that an engine works on at a time: what an interruption costs
MAX_ERROR = 300  # characters kept of an error
RIGHT, WRONG, CUT_OFF, UNJUDGED = "right", "wrong", "cut_off", "unjudged"  # verdicts


@dataclass(frozen=True, slots=True)
class PromptJob:
    """A model, how it is sampled, and what its replies are worth. Picklable.

    `open_worker` makes a rollout worker (`generate`) in an actor with the ray.remote options
    `options`; `digest` is that of the model's directory.
    """

    open_worker: Callable[[], Any]
    name: str
    digest: str
    dtype: str
    max_model_len: int
    config: Any  # the section of the recipe: temperature, max_tokens, concurrency
    seed: int
    options: Mapping[str, Any]

    modes: ClassVar[tuple[Mode, ...]] = (Mode.THINKING,)  # each row is prompted in all of these

    @property
    def params_hash(self) -> str:
        """Digest of all that decides a reply's text and verdict; not of how many, how fast or
        where.
        """
        model = [CACHE_FORMAT, self.digest, self.dtype, self.max_model_len, self.seed]
        return digest_json([*model, self.config.temperature, self.config.max_tokens, *self.decides])

    @property
    def decides(self) -> Sequence[Any]:
        """What else decides a reply's text and verdict."""
        raise NotImplementedError

    def prepare(self, files: Sequence[Path], chosen: pa.Table, batches: list[list[Row]]) -> None:
        """Adds to the rows of `batches` what `request` needs and no candidate has."""

    def missing(self, row: Row) -> int:
        """Returns how many replies to ask for, 0 if there are enough. `row` has `round`, `first`
        (number of the next reply) and `sound` (sound replies so far).
        """
        raise NotImplementedError

    def request(self, row: Row, renderer: Any) -> GenerationRequest:
        """Returns the request for the `missing` replies to `row`, a candidate's prompt with the
        columns of `missing_rows`. `renderer` is the worker's.
        """
        mode = Mode(row["request_mode"])
        return GenerationRequest(
            row_prompt(row),
            mode,
            row["missing"],
            self.config.temperature,
            self.config.max_tokens + len(renderer.tokens.trigger(mode)) - 1,
            self.draw_seed(row["id"], row["round"]),
        )

    def draw_seed(self, *parts: Any) -> int:
        """Returns a seed that depends on the job's own and on `parts`."""
        return int(digest_json([self.seed, *parts])[:7], 16)

    def verdict(self, row: Row, completion: Completion) -> str:
        """Judges a completion, in a word that is cached with it. Raises UnjudgedError."""
        if not completion.finished:
            return CUT_OFF
        return RIGHT if is_right(completion, row_prompt(row)) else WRONG

    def sound(self, row: Row, reply: Reply) -> bool:
        """Whether a reply without an error counts. `row` has the columns of `chosen`."""
        return True


def run_job(
    files: Sequence[Path],
    chosen: pa.Table,
    job: PromptJob,
    cache: Path,
    on_done: Callable[[int], None],
) -> Path:
    """Prompts until each row of `chosen` (file, row, id, content and what `job.sound` needs) has
    enough replies or no round left, and returns the folder of the replies.

    `on_done` gets numbers of rows, once for each mode; those in the cache at once. A row that the
    engine refuses gets a reply with an `error`, and is tried again in the next run. Needs a
    connected Ray if anything is missing.
    """
    folder = cache / job.params_hash
    batches = missing_rows(chosen, job, folder)
    on_done(chosen.num_rows * len(job.modes) - sum(map(len, batches)))
    if batches:
        job.prepare(files, chosen, batches)
        pool = (files, job, folder)
        for settled in run_pool(PromptWorker, pool, batches, job.config.concurrency, job.options):
            on_done(settled)
    compact(folder)
    return folder


def missing_rows(chosen: pa.Table, job: PromptJob, folder: Path) -> list[list[Row]]:
    """The rows of `chosen` that lack replies in `folder`, once for each mode, in batches.

    Each has `request_mode`, `round`, `first`, `sound` and `missing`. Batches are cut before
    complete rows are dropped, so that the same rows meet in an engine after an interruption.
    """
    batches: list[list[Row]] = []
    for at, (row, replies) in enumerate(read_replies(folder, chosen)):
        if at % ROWS_PER_BATCH == 0:
            batches.append([])
        for mode in job.modes:
            done = [reply for reply in replies if reply.mode == mode.value and not reply.error]
            numbers = {reply.number for reply in done}
            progress = {
                "request_mode": mode.value,
                "round": 1 + max((reply.round for reply in done), default=-1),
                "first": next(number for number in count() if number not in numbers),
                "sound": sum(job.sound(row, reply) for reply in done),
            }
            if missing := job.missing(progress):
                batches[-1].append(row | progress | {"missing": missing})
    return [batch for batch in batches if batch]


class PromptWorker:
    """One engine of the pool: a batch of `missing_rows` in, replies in the cache out."""

    def __init__(self, files: Sequence[Path], job: PromptJob, folder: Path) -> None:
        self.files, self.job, self.folder = files, job, folder
        self.worker = job.open_worker()

    def __call__(self, batch: pa.Table) -> pa.Table:
        places = with_candidates(self.files, batch.to_pylist(), PROMPT_COLUMNS)
        replies = self.run_batch([candidate | row for candidate, row in places])
        write_replies(self.folder, replies)
        return pa.table({"settled": [batch.num_rows]})

    def run_batch(self, rows: Sequence[Row]) -> list[Reply]:
        """Rounds over `rows` until each has enough replies or no round left."""
        replies: list[Reply] = []
        while rows:
            requests = [self.job.request(row, self.worker.renderer) for row in rows]
            results = self.worker.generate(requests)
            again = []
            for row, request, result in zip(rows, requests, results, strict=True):
                new = list(self._replies(row, request, result))
                replies += new
                sound = sum(self.job.sound(row, reply) for reply in new if not reply.error)
                progress = {
                    "round": row["round"] + 1,
                    "first": row["first"] + len(new),
                    "sound": row["sound"] + sound,
                }
                missing = self.job.missing(progress)
                if missing and not result.refused:
                    again.append(row | progress | {"missing": missing})
            rows = again
        return replies

    def _replies(
        self, row: Row, request: GenerationRequest, result: GenerationResult
    ) -> Iterator[Reply]:
        """The replies to one request; one with an error if the worker refuses it."""
        refused = Reply(
            id=row["id"],
            content=row["content"],
            mode=row["request_mode"],
            number=REFUSED,
            round=row["round"],
            verdict="",
            penalty=request.repetition_penalty,
            num_tokens=0,
            text="",
            error=result.refused[:MAX_ERROR],
        )
        if result.refused:
            yield refused
        for number, completion in enumerate(result.completions, row["first"]):
            verdict, error = self._verdict(row, completion)
            yield replace(
                refused,
                number=number,
                verdict=verdict,
                num_tokens=completion.num_tokens,
                text=completion.text,
                error=error,
            )

    def _verdict(self, row: Row, completion: Completion) -> tuple[str, str]:
        """The verdict on `completion`, and why it has none."""
        try:
            with RowNote(row["id"]):
                return self.job.verdict(row, completion), ""
        except UnjudgedError as error:
            return UNJUDGED, str(error)[:MAX_ERROR]
