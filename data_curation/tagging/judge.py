"""Open questions: a judge model says whether they need reasoning (R-4B's second heuristic, arXiv
2508.21113, 2.1).

    consumes      train rows whose verifier is `open`: nothing but a model can say whether an answer
                  to them is good
    produces      a `Verdict` a row, and the tag that it gives
    waits for     the judge's engine
    interrupted   see `data_curation.sampling.prompt_job`

A reply counts only if it is one of two words and nothing else, after any reasoning that the model
closes. Without a judge such rows are rejected with a reason, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.grading.verify import OPEN
from bimode.modes import THINK_CLOSE, Mode
from bimode.records import Completion, GenerationRequest, Prompt
from bimode.storage.dataset import Row, question_of
from data_curation.sampling.cache import Reply, read_replies
from data_curation.sampling.prompt_job import PromptJob, run_job
from data_curation.store import Store
from data_curation.tagging.calibration import Judged, calibrate, describe
from data_curation.tagging.tagging import ALIVE_TRAIN, OVERLAY, UNTAGGED

WORDS = (Mode.THINKING.value, Mode.NON_THINKING.value)
UNPARSED = "unparsed"
NEEDS_JUDGE, JUDGE_FAILED, JUDGE_UNCLEAR = "needs_judge", "judge_failed", "judge_unclear"
JUDGE_REASONS = (NEEDS_JUDGE, JUDGE_FAILED, JUDGE_UNCLEAR)
NO_JUDGE = "its verifier is `open`, and curate.judge.model names no judge"
NO_ANSWER = "its verifier is `open`: no answer could be marked"
CLEARLY_TAGGED = "mode_reason = 'pass_rate' AND mode <> 'either'"
CHOSEN = ("file", "row", "id", "content")  # what `sample_verdicts` needs of a row


class Judge(PromptJob):
    """The model that judges open questions; `config` is `curate.judge`."""

    __slots__ = ()
    modes: ClassVar[tuple[Mode, ...]] = (Mode.AUTO,)

    @property
    def decides(self) -> Sequence[Any]:
        return [self.config.template, self.config.images, self.config.constrained]

    def missing(self, row: Row) -> int:
        if row["round"] > self.config.retries:
            return 0
        return max(0, int(self.config.votes - row["sound"]))

    def request(self, row: Row, renderer: Any) -> GenerationRequest:
        question = self.config.template.format(question=question_of(row), answer=row["answer"])
        images = tuple(image["bytes"] for image in row["images"]) if self.config.images else ()
        return GenerationRequest(
            Prompt(
                row["id"], question, images, row["answer"], OPEN, "{}", row["task"], row["level"]
            ),
            Mode.AUTO,
            row["missing"],
            self.config.temperature,
            self.config.max_tokens,
            self.draw_seed(row["id"], row["round"]),
            choices=WORDS if self.config.constrained else (),
        )

    def verdict(self, row: Row, completion: Completion) -> str:
        return parse_verdict(completion.text) if completion.finished else UNPARSED

    def sound(self, row: Row, reply: Reply) -> bool:
        return reply.verdict in WORDS


@dataclass(frozen=True, slots=True)
class Verdict:
    """The votes on a row of file `file`, e.g. ``Verdict(0, 17, "open-7", "thinking", thinking=4,
    non_thinking=1, unparsed=2)``.

    `mode` is `either` if both words have equally many votes, and empty without any vote.
    """

    file: int
    row: int
    id: str
    mode: str
    thinking: int
    non_thinking: int
    unparsed: int  # replies without a verdict, each drawn again up to `retries` times
    error: str = ""

    @property
    def confidence(self) -> float:
        """Share of the votes that the mode has; of a tie 0."""
        most, least = max(self.thinking, self.non_thinking), min(self.thinking, self.non_thinking)
        return 0.0 if most == least else most / (most + least)


def parse_verdict(text: str) -> str:
    """`thinking` or `non_thinking` if the answer in `text` (after its last ``</think>``) is that
    word and nothing else, else `unparsed`. Quotes, stars and a full stop around it do not matter.
    """
    answer = text.rpartition(THINK_CLOSE)[2].strip().strip("`\"'*.").strip().casefold()
    return answer if answer in WORDS else UNPARSED


def count_votes(row: Row, replies: Sequence[Reply], votes: int) -> Verdict:
    """The verdict of the first `votes` replies that are one."""
    completed = [reply for reply in replies if not reply.error]
    counts = Counter([reply.verdict for reply in completed if reply.verdict in WORDS][:votes])
    mode = ""
    if counts:
        tied = counts[WORDS[0]] == counts[WORDS[1]]
        mode = "either" if tied else max(WORDS, key=counts.__getitem__)
    return Verdict(
        row["file"],
        row["row"],
        row["id"],
        mode,
        counts[WORDS[0]],
        counts[WORDS[1]],
        sum(reply.verdict == UNPARSED for reply in completed),
        "" if completed or not replies else replies[0].error,
    )


def choose_open(store: Store) -> pa.Table:
    """The train rows, not rejected so far, that only a judge can tag."""
    return store.table(CHOSEN, f"{ALIVE_TRAIN} AND verifier = '{OPEN}'", "id, file, row")


def choose_tagged(store: Store, most: int) -> pa.Table:
    """At most `most` rows with a clear tag by pass counts, on which the judge is tried: the first
    by hash of the id.
    """
    found = store.table(CHOSEN, f"{ALIVE_TRAIN} AND {CLEARLY_TAGGED}", "md5(id), id", most)
    return found.slice(0, most)  # 0 is none here


def sample_verdicts(
    files: Sequence[Path],
    chosen: pa.Table,
    judge: Judge,
    cache: Path,
    on_done: Callable[[int], None],
) -> Iterator[Verdict]:
    """The verdicts on `chosen` (columns `CHOSEN`), ordered by id; `on_done` gets numbers of rows,
    those in the cache at once.

    Needs a connected Ray if any is missing.
    """
    folder = run_job(files, chosen, judge, cache, on_done)
    for row, replies in read_replies(folder, chosen):
        yield count_votes(row, replies, judge.config.votes)


def tag_open(store: Store, verdicts: Iterable[Verdict], judge: Judge) -> None:
    """Tags rows by `verdicts`, and rejects those without a tag."""
    places = ({"file": v.file, "row": v.row} | UNTAGGED | _judged_tag(v, judge) for v in verdicts)
    store.update(OVERLAY, places)


def set_aside(store: Store, has_judge: bool) -> None:
    """Rejects open rows of rl and eval, and those of train too if the recipe names no judge."""
    rows = store.table(
        ["file", "row", "split"], f"reason = '' AND verifier = '{OPEN}'", "file, row"
    ).to_pylist()
    rejected = []
    for row in rows:
        row |= {"reason": NEEDS_JUDGE, "detail": NO_ANSWER}
        if row["split"] == "train":
            row["detail"] = NO_JUDGE
        if row["split"] != "train" or not has_judge:
            rejected.append(row)
    store.update(["reason", "detail"], rejected)


def unparsed_warning(verdicts: Sequence[Verdict]) -> str:
    """One loud line where most replies of the judge were no verdict, else an empty string."""
    parsed = sum(verdict.thinking + verdict.non_thinking for verdict in verdicts)
    unparsed = sum(verdict.unparsed for verdict in verdicts)
    if unparsed <= parsed:
        return ""
    return (
        f"WARNING: {unparsed} of the judge's {parsed + unparsed} replies are neither {WORDS[0]} nor"
        f" {WORDS[1]}: change curate.judge.prompt, give it more curate.judge.max_tokens, or set"
        " curate.judge.constrained = true"
    )


def compared(store: Store, verdicts: Iterable[Verdict]) -> str:
    """How far the judge agrees with tags by pass counts, beside what needs no judge; a line a
    comparison.
    """
    modes = {verdict.id: verdict.mode for verdict in verdicts if verdict.mode in WORDS}
    both = []
    for row in store.table(["id", "mode", "question"], CLEARLY_TAGGED).to_pylist():
        if verdict := modes.get(row["id"]):
            both.append(Judged(row["id"], row["mode"], verdict, len(row["question"])))
    if not both:
        return "curate: the judge and the pass counts have no row in common"
    return describe(calibrate(both))


def _judged_tag(verdict: Verdict, judge: Judge) -> Row:
    if not verdict.mode:
        reason = JUDGE_FAILED if verdict.error else JUDGE_UNCLEAR
        return {
            "reason": reason,
            "detail": verdict.error or f"{verdict.unparsed} replies without a verdict",
        }
    return {
        "mode": verdict.mode,
        "mode_reason": "judge",
        "mode_conf": verdict.confidence,
        "rollout_model": judge.name,
        "tag_rule": "judge_tied" if verdict.mode == "either" else "judge_majority",
        "rollout_params_hash": judge.params_hash,
        "reason": "",
        "detail": "",
    }


VERDICT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("mode", pa.string()),
        ("thinking", pa.int16()),
        ("non_thinking", pa.int16()),
        ("unparsed", pa.int16()),
        ("error", pa.string()),
    ]
)


def publish_verdicts(verdicts: Iterable[Verdict], folder: Path) -> None:
    """Writes the votes as verdicts.parquet, a narrow table that is published beside the tags."""
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist([asdict(verdict) for verdict in verdicts], schema=VERDICT_SCHEMA)
    pq.write_table(table, folder / "verdicts.parquet", compression="zstd")
