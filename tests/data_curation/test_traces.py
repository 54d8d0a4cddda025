"""Traces of a teacher: kept only if right and sound, else drawn again or dropped and counted; a
source's own go the same way.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.peers.simulated import PlainCodec
from bimode.config.curate import CurateConfig
from bimode.config.traces import JudgeConfig, TraceConfig
from bimode.grading.verify import is_correct
from bimode.modes import Mode, parse_response
from bimode.records import Completion, GenerationRequest, GenerationResult
from bimode.storage.run_dir import digest_path
from data_curation.sampling import prompt_job as module
from data_curation.store import Store
from data_curation.tagging.judge import Judge, sample_verdicts
from data_curation.traces import generate as traces_module
from data_curation.traces.generate import (
    CHOSEN,
    Outcomes,
    Teacher,
    Trace,
    choose_rows,
    sample_traces,
    write_traces,
)
from data_curation.traces.quality import penalties_of, raw_scores
from tests.data_curation.flow import NAMES, completion, write

GOOD, LONG, BAD, ODD = (
    "so {0}",
    "we look , so {0}",
    "so {1}",
    "so {1} is {1}",
)  # {0} the answer, {1} another number
COPY = CurateConfig(paired_share=0.0)


@pytest.fixture
def store(table: pa.Table, tmp_path: Path) -> Store:
    """Six rows of hard digit strips without a trace: three tagged thinking, two either, one
    direct.
    """
    modes = ["thinking"] * 3 + ["either"] * 2 + ["non_thinking"]
    return write(
        table, tmp_path / "bare.parquet", trace=[""] * 6, mode=modes, mode_reason=["pass_rate"] * 6
    )


class Scripted:
    """A worker that writes the next chain of `script` for each question; ``{0}`` is the answer,
    ``!`` a wrong one behind it.
    """

    renderer = PlainCodec()

    def __init__(self, script: dict[str, list[str]]) -> None:
        self.script, self.asked = script, list[GenerationRequest]()

    def generate(self, requests: list[GenerationRequest]) -> list[GenerationResult]:
        self.asked += [request for request in requests if request.prompt.id in self.script]
        return [self._result(request) for request in requests]

    def _result(self, request: GenerationRequest) -> GenerationResult:
        if request.prompt.id not in self.script:
            return GenerationResult((), "too long")
        chains = [self.script[request.prompt.id].pop(0) for _ in range(request.n)]
        return GenerationResult(tuple(self._completion(request, chain) for chain in chains))

    def _completion(self, request: GenerationRequest, chain: str) -> Completion:
        answer = int(request.prompt.answer)
        said = answer + 1 if chain.endswith("!") else answer
        text = (
            "\n"
            + chain.removesuffix("!").format(answer, answer + 1)
            + ("" if chain == "~" else f"\n</think>\n\n{said}")
        )
        return completion(request, text, chain != "~")


def teacher_of(worker: Scripted, **config: Any) -> Teacher:
    return Teacher(
        lambda: worker,
        "wise",
        "digest",
        "float32",
        256,
        TraceConfig(**({"samples": 2} | config)),
        0,
        {},
    )


def test_who_wants_a_trace(store: Store, table: pa.Table, tmp_path: Path) -> None:
    assert choose_rows(store, COPY, TraceConfig(model="m"))["id"].to_pylist() == NAMES[:5], (
        "not the one that answers directly"
    )
    assert (
        choose_rows(store, CurateConfig(paired_share=1.0), TraceConfig(model="m")).num_rows == 6
    ), "unless it is paired"
    (tmp_path / "own").mkdir()
    own = write(table, tmp_path / "own" / "c.parquet", mode=["thinking"] * 6)
    assert choose_rows(own, COPY, TraceConfig(model="m")).num_rows == 0, "they have their source's"
    assert choose_rows(own, COPY, TraceConfig(model="m", source="model"))["id"].to_pylist() == NAMES
    (tmp_path / "out").mkdir()
    out = write(table, tmp_path / "out" / "c.parquet", trace=[""] * 6, verifier=["open"] * 6)
    assert choose_rows(out, COPY, TraceConfig(model="m")).num_rows == 0, (
        "no verifier could say which chain is right"
    )


def test_chains_are_kept_drawn_again_or_dropped_and_all_are_counted(
    store: Store, tmp_path: Path, without_ray: None
) -> None:
    script = {
        NAMES[0]: [LONG, GOOD],  # the shorter one
        NAMES[1]: [
            "so {0}!",
            "~",
            ODD,
            GOOD,
        ],  # wrong, cut off; right under a chain that contradicts it, right
        NAMES[2]: ["so {0}!"] * 4,  # never right
        NAMES[3]: [
            "4 + 4 > 9 ; so 9",
            "As an AI , so {0}",
            "...",
            "so {1}",
        ],  # right answers under chains that are not
    }
    worker, received = Scripted(script), list[int]()
    chosen = choose_rows(store, COPY, TraceConfig(model="m"))
    teacher = teacher_of(worker, retries=1)
    outcome = Outcomes()
    found = list(
        outcome.counted(
            sample_traces(store.files, chosen, teacher, tmp_path / "cache", received.append)
        )
    )
    answer = dict(zip(NAMES, store.table(["id", "answer"])["answer"].to_pylist(), strict=True))
    assert [t.id for t in found] == NAMES[:5] and received == [0, 5]
    texts = [f"so {answer[name]}" for name in NAMES[:2]]
    assert [t.text for t in found] == [*texts, "", "", ""]
    outcomes = [dict(t.outcomes) for t in found]
    assert outcomes[0] == {"right": 2} and outcomes[1] == {
        "cut_off": 1,
        "inconsistent_trace": 1,
        "right": 1,
        "wrong": 1,
    }
    assert outcomes[2] == {"wrong": 4} and set(outcomes[3]) >= {
        "forbidden_phrase",
        "empty_trace",
        "inconsistent_trace",
    }
    assert sum(outcomes[3].values()) == 4 and found[4].error == "too long"
    assert outcome.rows == {"kept": 2, "dropped": 2, "failed": 1} and outcome.chains["right"] == 3
    assert (
        str(outcome).startswith("traces: 2 kept, 2 dropped, 1 failed; of 14 chains ")
        and str(Outcomes()) == "traces: none wanted"
    )
    assert [(r.prompt.id, r.n, r.mode) for r in worker.asked[:4]] == [
        (name, 2, Mode.THINKING) for name in NAMES[:4]
    ]
    assert [r.prompt.id for r in worker.asked[4:]] == NAMES[1:4], "the first has one already"
    assert len({r.seed for r in worker.asked}) == 7 and {
        r.repetition_penalty for r in worker.asked
    } == {1.0}
    assert {r.max_tokens for r in worker.asked} == {48 + 1}, "what forces the mode comes on top"


def test_what_is_kept_and_what_is_not_shows_in_the_rows(store: Store, tmp_path: Path) -> None:
    found = [
        Trace(0, 0, NAMES[0], "thinking", (("right", 1),), "so 7", 4),
        Trace(0, 1, NAMES[1], "thinking", (("cut_off", 1), ("wrong", 3))),
        Trace(0, 2, NAMES[2], "thinking", (), error="too long"),
        Trace(0, 3, NAMES[3], "either", (("wrong", 4),)),
    ]
    write_traces(store, found, "wise")
    rows = [
        tuple(row.values())
        for row in store.table(["trace", "trace_source", "reason", "detail"]).to_pylist()
    ]
    assert rows == [
        ("so 7", "wise", "", ""),
        ("", "", "no_trace", "1 cut_off, 3 wrong"),
        ("", "", "no_trace", "too long"),
        ("", "", "", ""),
        ("", "", "", ""),
        ("", "", "", ""),
    ]


def test_nothing_is_drawn_twice_and_a_stricter_check_draws_again(
    store: Store, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Scripted({NAMES[0]: ["we look , so {0}", "so {0}!", "so {0}", "so {0}"]})
    chosen, cache = choose_rows(store, COPY, TraceConfig(model="m")).slice(0, 1), tmp_path / "cache"
    [first] = sample_traces(store.files, chosen, teacher_of(worker), cache, print)
    assert first.text.startswith("we look")
    [strict] = sample_traces(
        store.files, chosen, teacher_of(worker, forbidden=("we look",)), cache, print
    )
    assert strict.text.startswith("so") and len(worker.asked) == 2, (
        "what is there was judged anew, and more drawn"
    )
    assert dict(strict.outcomes) == {"forbidden_phrase": 1, "wrong": 1, "right": 2}

    def no_engine(*_: object) -> Any:
        raise AssertionError("the engine was started for traces that are in the cache")

    monkeypatch.setattr(module, "run_pool", no_engine)
    [again] = sample_traces(
        store.files, chosen, teacher_of(worker, forbidden=("we look",), retries=9), cache, print
    )
    assert again == strict


def test_a_seeded_choice_depends_on_the_seed_alone(
    store: Store, tmp_path: Path, without_ray: None
) -> None:
    chains = [
        f"{word} , so {{0}}"
        for word in ("now", "then", "well", "here", "there", "see", "look", "and")
    ]
    chosen = choose_rows(store, COPY, TraceConfig(model="m")).slice(0, 1)
    texts = set()
    for seed in range(6):
        for order in (1, -1):
            worker = Scripted({NAMES[0]: chains[::order]})
            teacher = replace(teacher_of(worker, samples=8, choice="seeded"), seed=seed)
            [found] = sample_traces(
                store.files, chosen, teacher, tmp_path / f"{seed}{order}", print
            )
            texts.add((seed, found.text))
    assert len(texts) == 6, "the order in which they came does not matter"
    assert len({text for _, text in texts}) > 1


def test_what_decides_the_words_decides_the_cache_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = teacher_of(Scripted({}))

    def other(**change: Any) -> str:
        return replace(base, config=base.config.model_copy(update=change)).params_hash

    assert (
        other(
            samples=9, retries=0, choice="seeded", forbidden=(), check_steps=False, source="model"
        )
        == base.params_hash
    )
    assert other(beta=2.0) == base.params_hash, "weights of a penalty that is off"
    hashes = {
        other(alpha=1.0),
        other(alpha=1.0, beta=2.0),
        other(temperature=0.5),
        other(max_tokens=9),
        base.params_hash,
    }
    hashes |= {replace(base, digest="x").params_hash, replace(base, max_model_len=9).params_hash}
    monkeypatch.setattr(traces_module, "code_digest", lambda: "another verifier")
    assert len(hashes | {base.params_hash}) == 8


def test_each_row_is_drawn_under_its_own_penalty_and_says_so(
    store: Store, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_rows(store, COPY, TraceConfig(model="m"))
    monkeypatch.setattr(
        traces_module, "score_rows", lambda files, rows: raw_scores(files, rows.to_pylist())
    )
    worker = Scripted({name: [GOOD] * 2 for name in NAMES})
    teacher = teacher_of(worker, alpha=math.log(2))
    found = list(sample_traces(store.files, chosen, teacher, tmp_path / "cache", print))
    asked = {r.prompt.id: r.repetition_penalty for r in worker.asked}
    raw = raw_scores(store.files, chosen.to_pylist())
    assert asked == penalties_of(raw, teacher.config)
    assert len(set(asked.values())) > 1 and all(1.0 <= p <= 2.0 for p in asked.values())
    assert [t.penalty for t in found] == [pytest.approx(asked[t.id], rel=1e-6) for t in found]


@pytest.mark.ray
def test_a_judge_and_a_teacher_answer_through_ray_data(
    ray_local: Any,
    tiny_llava: Path,
    table: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A random model gives no verdict and no chain to speak of: it is asked as often as the recipe
    allows, and all is counted.
    """
    from actors.rollout.chat_worker import ChatWorker
    from actors.rollout.worker import RolloutWorker

    (tmp_path / "bare").mkdir()
    store = write(table, tmp_path / "bare" / "c.parquet", trace=[""] * 6, mode=["thinking"] * 6)
    chosen, received, digest = store.table(CHOSEN).slice(0, 4), list[int](), digest_path(tiny_llava)
    common: dict[str, Any] = {"dtype": "float32", "seed": 0, "sync": "object_store"}
    opened = partial(ChatWorker, "judge", tiny_llava, max_model_len=512, **common)
    config = JudgeConfig(votes=2, retries=1, max_tokens=8, max_model_len=512)
    judge = Judge(opened, "tiny", digest, "float32", 512, config, 0, {"num_cpus": 1.0})
    verdicts = list(
        sample_verdicts(store.files, chosen, judge, tmp_path / "judged", received.append)
    )
    assert [v.id for v in verdicts] == NAMES[:4] and sum(received) == 4
    assert {(v.mode, v.unparsed, v.error) for v in verdicts} == {("", 4, "")}

    opened = partial(RolloutWorker, "teacher", tiny_llava, max_model_len=128, **common)
    config = TraceConfig(samples=3, retries=1, max_tokens=6, alpha=math.log(2), gamma=0.0)
    teacher = Teacher(opened, "tiny", digest, "float32", 128, config, 0, {"num_cpus": 1.0})
    traces = list(sample_traces(store.files, chosen, teacher, tmp_path / "traced", received.append))
    assert sum(received) == 8 and {sum(dict(t.outcomes).values()) for t in traces} <= {3, 6}
    answers = dict(zip(NAMES, table["answer"].to_pylist(), strict=True))
    held = [
        pq.read_table(part).to_pylist() for part in (tmp_path / "traced").rglob("part-*.parquet")
    ]
    replies = [row for part in held for row in part]
    for row in replies:
        assert (
            row["text"].startswith("\n") and 1.0 <= row["penalty"] <= 2.0 and row["num_tokens"] <= 7
        )
        assert (row["verdict"] == "right") is is_correct(
            row["text"], answers[row["id"]], "exact", "{}"
        )
    assert (
        len({row["text"] for row in replies if row["id"] == NAMES[0]}) > 1
        and len({row["penalty"] for row in replies}) > 1
    )
    assert all(bool(t.text) == ("right" in dict(t.outcomes)) for t in traces)
    assert all(parse_response(row["text"]).trace or row["verdict"] != "right" for row in replies)

    def no_engine(*_: object) -> Any:
        raise AssertionError("the engine was started for what is in the cache")

    monkeypatch.setattr(module, "run_pool", no_engine)
    again = sample_verdicts(store.files, chosen, judge, tmp_path / "judged", received.append)
    assert list(again) == verdicts
    same = sample_traces(store.files, chosen, teacher, tmp_path / "traced", received.append)
    assert list(same) == traces
