"""Open questions: a judge model says whether they need reasoning (R-4B's second heuristic, arXiv
2508.21113, 2.1).

    consumes      train rows whose verifier is `open`: nothing but a model can say whether an answer
                  to them is good
    produces      a `Verdict` a row, and the tag that it gives
    waits for     the judge's engine
    interrupted   see `data_curation.sampling.prompt_job`

A reply counts only if it is one of two words and nothing else, after whatever reasoning the model
closes. Without a judge such rows are set aside with a reason, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.traces import JudgeConfig
from bimode.grading.verify import OPEN
from bimode.modes import THINK_CLOSE, Mode
from bimode.records import Completion, GenerationRequest, Prompt
from bimode.storage.dataset import Row, question_of
from bimode.storage.run_dir import digest_json
from data_curation.sampling.prompt_job import Reply, ask, missing_rows, read_replies
from data_curation.store import Store, write_overlay
from data_curation.tagging.calibration import Judged, calibrate, describe
from data_curation.tagging.tagging import ALIVE_TRAIN, OVERLAY, UNTAGGED

WORDS = (Mode.THINKING.value, Mode.NON_THINKING.value)
UNPARSED = "unparsed"
NEEDS_JUDGE, JUDGE_FAILED, JUDGE_UNCLEAR = "needs_judge", "judge_failed", "judge_unclear"
JUDGE_REASONS = (NEEDS_JUDGE, JUDGE_FAILED, JUDGE_UNCLEAR)
CHOSEN = ("file", "row", "id", "content")  # what `sample_verdicts` needs of a row


@dataclass(frozen=True, slots=True)
class Judge:
    """The model that is asked, and how. `digest` is that of its directory; an `PromptJob`."""

    open_worker: Callable[[], Any]
    name: str
    digest: str
    dtype: str
    config: JudgeConfig
    seed: int
    options: Mapping[str, Any]

    @property
    def concurrency(self) -> int:
        return self.config.concurrency

    @property
    def rounds(self) -> int:
        return 1 + self.config.retries

    @property
    def columns(self) -> Sequence[str]:
        return "prompt", "images", "answer", "task", "level"

    @property
    def params_hash(self) -> str:
        c = self.config
        asked = [c.template, c.images, c.temperature, c.max_tokens, c.max_model_len, c.constrained]
        return digest_json([self.digest, asked, self.dtype, self.seed])

    def missing(self, sound: int) -> int:
        return max(0, self.config.votes - sound)

    def request(self, row: Row, n: int, renderer: Any) -> GenerationRequest:
        question = self.config.template.format(question=question_of(row), answer=row["answer"])
        images = tuple(image["bytes"] for image in row["images"]) if self.config.images else ()
        prompt = Prompt(
            row["id"], question, images, row["answer"], OPEN, "{}", row["task"], row["level"]
        )
        seed = int(digest_json([self.seed, row["id"], row["round"]])[:7], 16)
        words = WORDS if self.config.constrained else ()
        return GenerationRequest(
            prompt,
            Mode.AUTO,
            n,
            self.config.temperature,
            self.config.max_tokens,
            seed,
            choices=words,
        )

    def verdict(self, row: Row, completion: Completion) -> str:
        return parse_verdict(completion.text) if completion.finished else UNPARSED

    def sound(self, row: Row, reply: Reply) -> bool:
        return reply.verdict in WORDS


@dataclass(frozen=True, slots=True)
class Verdict:
    """The votes on a row of file `file`, e.g. ``Verdict(0, 17, "open-7", "thinking", thinking=4,
    non_thinking=1, unparsed=2)``.

    `mode` is `either` where both words have equally many votes, and empty where there is none.
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


def count_votes(row: Row, replies: Iterable[Reply], votes: int) -> Verdict:
    """The verdict of the first `votes` replies that have one."""
    replies = list(replies)
    completed = [reply for reply in replies if not reply.error]
    sound = [reply.verdict for reply in completed if reply.verdict in WORDS][:votes]
    counts, place = Counter(sound), (row["file"], row["row"], row["id"])
    thinking, direct = (counts[word] for word in WORDS)
    mode = "" if not sound else "either" if thinking == direct else WORDS[thinking < direct]
    error = next((reply.error for reply in replies if reply.error), "") if not completed else ""
    return Verdict(
        *place, mode, thinking, direct, sum(reply.verdict == UNPARSED for reply in completed), error
    )


def choose_open(store: Store) -> pa.Table:
    """The train rows still in that only a judge can tag."""
    return store.table(CHOSEN, f"{ALIVE_TRAIN} AND verifier = '{OPEN}'", "id, file, row")


def choose_tagged(store: Store, most: int) -> pa.Table:
    """At most `most` rows with a clear tag by pass counts, on which the judge is tried: the first
    by hash of the id.
    """
    found = store.table(
        CHOSEN,
        f"{ALIVE_TRAIN} AND mode_reason = 'pass_rate' AND mode <> 'either'",
        "md5(id), id",
        most,
    )
    return found.slice(0, most)  # 0 is none here


def sample_verdicts(
    files: Sequence[Path],
    chosen: pa.Table,
    judge: Judge,
    cache: Path,
    on_done: Callable[[int], None],
) -> Iterator[Verdict]:
    """The verdicts on `chosen` (columns `CHOSEN`), ordered by id; `on_done` hears of rows, those in
    the cache at once.

    Needs a connected Ray if any is missing.
    """
    folder = cache / judge.params_hash
    batches = missing_rows(chosen, judge, folder)
    on_done(chosen.num_rows - sum(map(len, batches)))
    ask(files, batches, judge, folder, on_done)
    yield from (
        count_votes(row, replies, judge.config.votes)
        for row, replies in read_replies(folder, chosen)
    )


def tag_open(verdicts: Iterable[Verdict], judge: Judge, out: Path) -> Path:
    """Writes the tags that `verdicts` give, and the reason where there is none, for
    `Store.apply`.
    """
    places = ({"file": v.file, "row": v.row} | UNTAGGED | _judged_tag(v, judge) for v in verdicts)
    return write_overlay(OVERLAY, places, out)


def set_aside(store: Store, has_judge: bool, out: Path) -> Path:
    """Rejects open rows of rl and eval, and where no judge is named those of train too, for
    `Store.apply`.
    """
    open_row = f"reason = '' AND verifier = '{OPEN}'"
    rows = store.table(
        ["file", "row", "split"],
        f"{open_row} AND split <> 'train'" if has_judge else open_row,
        "file, row",
    )
    why = {"train": "its verifier is `open`, and curate.judge.model names no judge"}
    details = (
        (row, why.get(row.pop("split"), "its verifier is `open`: no answer could be marked"))
        for row in rows.to_pylist()
    )
    return write_overlay(
        OVERLAY[-2:],
        (row | {"reason": NEEDS_JUDGE, "detail": detail} for row, detail in details),
        out,
    )


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
    judged = {verdict.id: verdict.mode for verdict in verdicts if verdict.mode in WORDS}
    rows = store.table(
        ["id", "mode", "question"], "mode_reason = 'pass_rate' AND mode <> 'either'"
    ).to_pylist()
    both = [
        Judged(row["id"], row["mode"], judged[row["id"]], len(row["question"]))
        for row in rows
        if row["id"] in judged
    ]
    return (
        describe(calibrate(both))
        if both
        else "curate: the judge and the pass counts have no row in common"
    )


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
    """Writes `verdict_table` as verdicts.parquet."""
    folder.mkdir(exist_ok=True)
    pq.write_table(verdict_table(verdicts), folder / "verdicts.parquet", compression="zstd")


def verdict_table(verdicts: Iterable[Verdict]) -> pa.Table:
    """The votes as a narrow table, to be published beside the tags."""
    return pa.Table.from_pylist([asdict(verdict) for verdict in verdicts], schema=VERDICT_SCHEMA)
