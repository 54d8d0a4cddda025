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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from bimode.config.curate import CurateConfig
from bimode.config.traces import TraceConfig
from bimode.errors import UnjudgedError
from bimode.grading.verify import OPEN, code_digest, is_right
from bimode.inputs.control_tokens import OURS, ControlTokens
from bimode.modes import Mode, parse_response
from bimode.records import Completion, GenerationRequest
from bimode.storage.dataset import PROMPT_COLUMNS, Row, row_prompt
from bimode.storage.run_dir import digest_json
from data_curation.formats import is_paired
from data_curation.sampling.prompt_job import Reply, ask, missing_rows, read_replies
from data_curation.store import Store, write_overlay
from data_curation.tagging.tagging import ALIVE_TRAIN
from data_curation.traces.checks import check_trace
from data_curation.traces.penalty import penalties_of, score_rows

RIGHT, WRONG, CUT_OFF, UNJUDGED = "right", "wrong", "cut_off", "unjudged"  # verdicts on a reply
NO_TRACE = "no_trace"
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
)  # what checks need
OVERLAY_COLUMNS = [(name, pa.string()) for name in ("trace", "trace_source", "reason", "detail")]


@dataclass(frozen=True, slots=True)
class Teacher:
    """The model that writes traces, and how. `digest` is that of its directory; an `PromptJob`."""

    open_worker: Callable[[], Any]
    name: str
    digest: str
    dtype: str
    max_model_len: int
    config: TraceConfig
    seed: int
    options: Mapping[str, Any]
    controls: ControlTokens = OURS  # of the model that will learn from the traces

    @property
    def concurrency(self) -> int:
        return self.config.concurrency

    @property
    def rounds(self) -> int:
        return 1 + self.config.retries

    @property
    def columns(self) -> Sequence[str]:
        return PROMPT_COLUMNS

    @property
    def params_hash(self) -> str:
        """The weights of the penalty count; a row's own penalty, which moves with the other rows,
        does not: replies tell it.
        """
        c = self.config
        sampling = [
            c.temperature,
            c.max_tokens,
            *((c.alpha, c.beta, c.gamma) if c.penalised else ()),
        ]
        return digest_json(
            [self.digest, sampling, self.dtype, self.max_model_len, self.seed, code_digest()]
        )

    def missing(self, sound: int) -> int:
        return 0 if sound else self.config.samples

    def request(self, row: Row, n: int, renderer: Any) -> GenerationRequest:
        max_tokens = self.config.max_tokens + len(renderer.tokens.trigger(Mode.THINKING)) - 1
        seed = int(digest_json([self.seed, row["id"], row["round"]])[:7], 16)
        penalty = row.get("penalty", 1.0)
        return GenerationRequest(
            row_prompt(row), Mode.THINKING, n, self.config.temperature, max_tokens, seed, penalty
        )

    def verdict(self, row: Row, completion: Completion) -> str:
        if not completion.finished:
            return CUT_OFF
        try:
            return RIGHT if is_right(completion, row_prompt(row)) else WRONG
        except UnjudgedError:
            return UNJUDGED

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
    """What a row came to, e.g. ``Trace(0, 3, "digits-7", "thinking", "look : ...", 31, 1.2,
    (("right", 1), ("wrong", 3)))``.
    """

    file: int
    row: int
    id: str
    mode: str  # the row's tag
    text: str  # "" where none is kept
    num_tokens: int  # of the whole response
    penalty: float
    outcomes: tuple[tuple[str, int], ...]  # of all chains that were drawn
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
    necessity: Mapping[str, float] | None = None,
) -> Iterator[Trace]:
    """The traces of `chosen`, ordered by id; `on_done` hears of rows, those in the cache at once.

    `necessity` by id, where it is known: direct accuracy with the image less that without. Needs a
    connected Ray if any is missing.
    """
    folder = cache / teacher.params_hash
    batches = missing_rows(chosen, teacher, folder)
    on_done(chosen.num_rows - sum(map(len, batches)))
    if batches and teacher.config.penalised:
        penalties = penalties_of(score_rows(files, chosen), teacher.config, necessity or {})
        batches = [[row | {"penalty": penalties[row["id"]]} for row in batch] for batch in batches]
    ask(files, batches, teacher, folder, on_done)
    yield from (
        choose_trace(row, replies, teacher) for row, replies in read_replies(folder, chosen)
    )


def choose_trace(row: Row, replies: Sequence[Reply], teacher: Teacher) -> Trace:
    """The shortest chain among those that can be kept, or one by a hash of seed, row and text
    (`traces.choice`).
    """
    completed = [reply for reply in replies if not reply.error]
    outcomes = [teacher.outcome(row, reply) for reply in completed]
    kept = [reply for reply, outcome in zip(completed, outcomes, strict=True) if outcome == RIGHT]

    def order(reply: Reply) -> tuple[int, str]:
        seeded = teacher.config.choice == "seeded"
        return (
            (0, digest_json([teacher.seed, reply.id, reply.text]))
            if seeded
            else (reply.num_tokens, reply.text)
        )

    best = min(kept, key=order, default=None)
    text, num_tokens, penalty = (
        (parse_response(best.text).trace, best.num_tokens, best.penalty) if best else ("", 0, 1.0)
    )
    error = next((reply.error for reply in replies), "") if not completed else ""
    counts = tuple(sorted(Counter(outcomes).items()))
    return Trace(
        row["file"], row["row"], row["id"], row["mode"], text, num_tokens, penalty, counts, error
    )


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


def write_traces(traces: Iterable[Trace], name: str, out: Path) -> Path:
    """Writes the traces with `name` as their source, for `Store.apply`; a row tagged thinking
    without one is out (`no_trace`).
    """
    return write_overlay(OVERLAY_COLUMNS, (_found(trace, name) for trace in traces), out)


def _found(trace: Trace, name: str) -> Row:
    place = {
        "file": trace.file,
        "row": trace.row,
        "trace": trace.text,
        "trace_source": name if trace.text else "",
    }
    if trace.text or trace.mode != Mode.THINKING:
        return place | {"reason": "", "detail": ""}
    return place | {
        "reason": NO_TRACE,
        "detail": trace.error or ", ".join(f"{n} {outcome}" for outcome, n in trace.outcomes),
    }
