"""Reasoning traces by self-distillation or from a teacher: rejection sampling under AL-CoTD's
repetition penalty.

    consumes      tagged train rows that want a trace and have none (or all that want one:
                  `traces.source = "model"`)
    produces      a `Trace` a row: the chain that is kept, or what became of those that were drawn
    waits for     the teacher's engine
    interrupted   see `data_curation.sampling.prompt_job`

A chain is kept if the row's own verifier finds its answer right and every check passes
(`data_curation.traces.checks`); else as many are drawn again with other seeds, up to `retries`
times. In the paper (Skywork R1V, arXiv 2504.05599, section 3) GPT-4o rewrites wrong chains; here a
row without a right one stays without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from bimode.config.curate import CurateConfig
from bimode.config.traces import TraceConfig
from bimode.grading.verify import OPEN, code_digest
from bimode.inputs.text import OURS, ControlTokens
from bimode.modes import Mode, parse_response
from bimode.records import GenerationRequest
from bimode.storage.dataset import Row
from bimode.storage.run_dir import digest_json
from data_curation.formats import is_paired
from data_curation.sampling.cache import REFUSED, Reply, read_replies
from data_curation.sampling.prompt_job import RIGHT, PromptJob, run_job
from data_curation.store import Store
from data_curation.tagging.tagging import ALIVE_TRAIN
from data_curation.traces.checks import check_trace
from data_curation.traces.quality import penalties_of, score_rows

NO_TRACE = "no_trace"
# what the checks need of a row
CHOSEN = (
    "file",
    "row",
    "id",
    "content",
    "question",
    "answer",
    "verifier",
    "verifier_args",
    "mode",
)


@dataclass(frozen=True, slots=True)
class Teacher(PromptJob):
    """Writes reasoning traces with a model; `config` is `curate.traces`."""

    controls: ControlTokens = OURS  # of the model that will learn from the traces

    @property
    def decides(self) -> Sequence[Any]:
        """The weights of the penalty count. A row's own penalty moves with the other rows and does
        not: replies record it.
        """
        c = self.config
        weights = (c.alpha, c.beta, c.gamma) if c.penalized else ()
        return [*weights, code_digest()]

    def prepare(self, files: Sequence[Path], chosen: pa.Table, batches: list[list[Row]]) -> None:
        if self.config.penalized:
            penalties = penalties_of(score_rows(files, chosen), self.config)
            for row in chain.from_iterable(batches):
                row["penalty"] = penalties[row["id"]]

    def missing(self, row: Row) -> int:
        enough = row["sound"] or row["round"] > self.config.retries
        return 0 if enough else int(self.config.samples)

    def request(self, row: Row, renderer: Any) -> GenerationRequest:
        request = PromptJob.request(self, row, renderer)
        return replace(request, repetition_penalty=row.get("penalty", 1.0))

    def sound(self, row: Row, reply: Reply) -> bool:
        return self.outcome(row, reply) == RIGHT

    def outcome(self, row: Row, reply: Reply) -> str:
        """`right`, or why the chain is not kept: the verdict, or the check that it failed."""
        if reply.verdict != RIGHT:
            return reply.verdict
        trace = parse_response(reply.text).trace
        return check_trace(row, trace, self.config, self.controls)[0] or RIGHT


@dataclass(frozen=True, slots=True)
class Trace:
    """What a row came to, e.g. ``Trace(0, 3, "digits-7", "thinking", (("right", 1), ("wrong", 3)),
    "look : ...", 31, 1.2)``.
    """

    file: int
    row: int
    id: str
    mode: str  # the row's tag
    outcomes: tuple[tuple[str, int], ...]  # of all chains that were drawn
    text: str = ""  # "" if none is kept
    num_tokens: int = 0  # of the whole response
    penalty: float = 1.0
    error: str = ""


def choose_rows(store: Store, config: CurateConfig, traces: TraceConfig) -> pa.Table:
    """The train rows (`CHOSEN`) that want a trace of a model: tagged thinking or either, or paired;
    no open questions.

    With `source = "own"` only those without one.
    """
    lacking = " AND trim(trace) = ''" if traces.source == "own" else ""
    found = store.table(CHOSEN, f"{ALIVE_TRAIN} AND verifier <> '{OPEN}'{lacking}", "id, file, row")
    rows = zip(found["id"].to_pylist(), found["mode"].to_pylist(), strict=True)
    return found.filter(
        pa.array(
            [mode != Mode.NON_THINKING or is_paired(name, config) for name, mode in rows],
            pa.bool_(),
        )
    )


def sample_traces(
    files: Sequence[Path],
    chosen: pa.Table,
    teacher: Teacher,
    cache: Path,
    on_done: Callable[[int], None],
) -> Iterator[Trace]:
    """The traces of `chosen`, ordered by id; `on_done` gets numbers of rows, those in the cache at
    once. Needs a connected Ray if any is missing.
    """
    folder = run_job(files, chosen, teacher, cache, on_done)
    for row, replies in read_replies(folder, chosen):
        yield choose_trace(row, replies, teacher)


def choose_trace(row: Row, replies: Sequence[Reply], teacher: Teacher) -> Trace:
    """The shortest chain among those that can be kept, or one by a hash of seed, row and text
    (`traces.choice`).
    """

    def order(reply: Reply) -> tuple[int, str]:
        if teacher.config.choice == "seeded":
            return 0, digest_json([teacher.seed, reply.id, reply.text])
        return reply.num_tokens, reply.text

    chains = [reply for reply in replies if reply.number != REFUSED]
    outcomes = Counter(teacher.outcome(row, reply) for reply in chains)
    kept = [reply for reply in chains if teacher.outcome(row, reply) == RIGHT]
    trace = Trace(row["file"], row["row"], row["id"], row["mode"], tuple(sorted(outcomes.items())))
    if kept:
        best = min(kept, key=order)
        text = parse_response(best.text).trace
        return replace(trace, text=text, num_tokens=best.num_tokens, penalty=best.penalty)
    return replace(trace, error="" if chains or not replies else replies[0].error)


@dataclass(slots=True)
class Outcomes:
    """What chains and rows came to; counts as traces go by."""

    chains: Counter[str] = field(default_factory=Counter)  # by outcome
    rows: Counter[str] = field(
        default_factory=Counter
    )  # kept, dropped, failed (the engine refused them)

    def counted(self, traces: Iterable[Trace]) -> Iterator[Trace]:
        """`traces` as they are."""
        for trace in traces:
            self.chains.update(dict(trace.outcomes))
            self.rows["kept" if trace.text else "failed" if trace.error else "dropped"] += 1
            yield trace

    def __str__(self) -> str:
        """E.g. ``traces: 2 kept, 1 dropped; of 9 chains 4 right, 5 wrong``."""
        rows, chains = (
            ", ".join(f"{n} {name}" for name, n in found.most_common())
            for found in (self.rows, self.chains)
        )
        return f"traces: {rows or 'none wanted'}" + (
            f"; of {self.chains.total()} chains {chains}" if chains else ""
        )


def write_traces(store: Store, traces: Iterable[Trace], name: str) -> None:
    """Gives rows their traces, with `name` as the source; rejects a row tagged thinking that has
    none (`no_trace`).
    """
    store.update(
        ("trace", "trace_source", "reason", "detail"), (_found(trace, name) for trace in traces)
    )


def _found(trace: Trace, name: str) -> Row:
    row = {
        "file": trace.file,
        "row": trace.row,
        "trace": trace.text,
        "trace_source": name if trace.text else "",
        "reason": "",
        "detail": "",
    }
    if trace.mode == Mode.THINKING and not trace.text:
        row["reason"] = NO_TRACE
        row["detail"] = trace.error or ", ".join(f"{n} {name}" for name, n in trace.outcomes)
    return row
