"""The judge: strict verdicts, votes and retries, nothing asked twice, and no guess without a
judge.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.curate import CurateConfig
from bimode.config.traces import JudgeConfig
from bimode.modes import Mode
from bimode.records import GenerationRequest, GenerationResult, Sample
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.demo.canvas import blank, rng_of, to_png
from data_curation.sampling import prompt_job as module
from data_curation.sampling.cache import Reply, read_replies
from data_curation.sampling.prompt_job import PromptWorker
from data_curation.sources.ingest import candidates
from data_curation.store import Store
from data_curation.tagging.calibration import Judged, calibrate
from data_curation.tagging.judge import (
    CHOSEN,
    Judge,
    Verdict,
    choose_open,
    choose_tagged,
    count_votes,
    parse_verdict,
    publish_verdicts,
    sample_verdicts,
    set_aside,
    tag_open,
    unparsed_warning,
)
from tests.data_curation.flow import completion

T, N = "thinking", "non_thinking"
ASSETS = Path(__file__).resolve().parents[2] / "assets"


def open_sample(
    name: str, question: str, image: bool = False, verifier: str = "open", split: str = "train"
) -> Sample:
    return Sample(
        id=name,
        question=question,
        images=(to_png(blank(), rng_of(name)),) if image else (),
        answer="a calm blue",
        trace="",
        transcription="",
        verifier=verifier,
        verifier_args="{}",
        guess_rate=0.0,
        task="open",
        domain="text",
        level="",
        difficulty="{}",
        split=split,
        source="test",
        source_license="CC0-1.0",
        source_refs=(),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four open questions, one with an image, and one that a verifier judges."""
    made = [
        open_sample(f"open-{k}", f"which color suits the {k} sisters ?", image=k == 1)
        for k in range(4)
    ]
    made.append(replace(open_sample("exact-0", "which color is meant ?"), verifier="exact"))
    table = candidates(made, "train", CurateConfig())
    assert set(table["reason"].to_pylist()) == {""}
    pq.write_table(table, tmp_path / "candidates.parquet")
    return tmp_path / "candidates.parquet"


class Scripted:
    """A worker that says the next texts of `script` for each question, and remembers what it was
    asked.
    """

    renderer = None

    def __init__(self, script: dict[str, list[str]]) -> None:
        self.script, self.asked = script, list[GenerationRequest]()

    def generate(self, requests: list[GenerationRequest]) -> list[GenerationResult]:
        self.asked += [request for request in requests if request.prompt.id in self.script]
        return [self._result(request) for request in requests]

    def _result(self, r: GenerationRequest) -> GenerationResult:
        if r.prompt.id not in self.script:
            return GenerationResult((), "too long")
        texts = [self.script[r.prompt.id].pop(0) for _ in range(r.n)]
        return GenerationResult(
            tuple(completion(r, text.rstrip("~"), not text.endswith("~")) for text in texts)
        )


def judge_of(worker: Scripted, **config: Any) -> Judge:
    return Judge(
        lambda: worker,
        "jury",
        "digest",
        "float32",
        512,
        JudgeConfig(**({"votes": 3} | config)),
        0,
        {},
    )


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("thinking", T),
        ("non_thinking", N),
        (" `Non_Thinking`.\n", N),
        ("**thinking**", T),
        ('"thinking"', T),
        ("\nlet me see : non_thinking\n</think>\n\nthinking", T),
        ("a</think>b</think>\n\nnon_thinking", N),
        ("not thinking", "unparsed"),
        ("non-thinking", "unparsed"),
        ("thinking or non_thinking", "unparsed"),
        ("The verdict is thinking", "unparsed"),
        ("thinking</think>", "unparsed"),
        ("", "unparsed"),
        ("yes", "unparsed"),
        ("thinking\nnon_thinking", "unparsed"),
    ],
)
def test_a_verdict_is_one_word_and_nothing_else(text: str, verdict: str) -> None:
    assert parse_verdict(text) == verdict


def reply(verdict: str, round: int = 0, number: int = 0, error: str = "") -> Reply:
    return Reply("a", "c", "auto", number, round, verdict, 1.0, 3, verdict, error)


def test_votes_are_counted_by_hand() -> None:
    place = {"file": 0, "row": 4, "id": "a"}

    def count(*verdicts: str, votes: int = 3) -> Verdict:
        return count_votes(place, [reply(v, number=k) for k, v in enumerate(verdicts)], votes)

    found = count(T, N, "unparsed", T)
    assert found == Verdict(
        0, 4, "a", T, thinking=2, non_thinking=1, unparsed=1
    ) and found.confidence == pytest.approx(2 / 3)
    assert count(N, N, T, T, T).mode == N, "only as many as were wanted"
    tied = count(T, N, votes=2)
    assert (tied.mode, tied.confidence) == ("either", 0.0)
    assert count("unparsed", "unparsed").mode == "" and count().mode == ""
    assert count_votes(place, [reply("", number=-1, error="too long")], 3).error == "too long"
    assert count_votes(place, [reply("", number=-1, error="too long"), reply(T)], 3).error == "", (
        "asked again, it answered"
    )


def test_what_is_unparsed_or_cut_off_is_drawn_again_with_another_seed(
    file: Path, tmp_path: Path
) -> None:
    said = [T, "hmm", "non_thinking~", N, "hmm", T]
    worker = Scripted({"open-0": said, "open-1": [N, N, N], "open-2": ["hmm"] * 9})
    rows = pq.read_table(file).slice(0, 4).to_pylist()
    replier = PromptWorker([file], judge_of(worker), tmp_path / "cache")
    first = {"request_mode": "auto", "round": 0, "first": 0, "sound": 0, "missing": 3}
    found = replier.run_batch([row | first for row in rows])
    asked = {(r.prompt.id, r.n, r.seed) for r in worker.asked}
    assert [(name, n) for name, n, _ in sorted(asked)] == [
        ("open-0", 1),
        ("open-0", 2),
        ("open-0", 3),
        ("open-1", 3),
        ("open-2", 3),
        ("open-2", 3),
        ("open-2", 3),
    ]
    assert len({seed for *_, seed in asked}) == 7
    of = {
        name: [(r.round, r.number, r.verdict) for r in found if r.id == name]
        for name in ("open-0", "open-2")
    }
    assert of["open-0"] == [
        (0, 0, T),
        (0, 1, "unparsed"),
        (0, 2, "unparsed"),
        (1, 3, N),
        (1, 4, "unparsed"),
        (2, 5, T),
    ]
    assert len(of["open-2"]) == 9, "given up after two retries"
    [refused] = [r for r in found if r.id == "open-3"]
    assert (refused.error, refused.number) == ("too long", -1)


def test_the_judge_sees_question_answer_and_images_as_the_recipe_says(file: Path) -> None:
    row = pq.read_table(file).to_pylist()[1] | {"round": 0, "missing": 3}
    judge = judge_of(Scripted({}), prompt="Q {question} A {answer}")
    request = judge.request(row, None)
    assert request.prompt.question == "Q which color suits the 1 sisters ? A a calm blue"
    assert len(request.prompt.images) == 1 and request.mode is Mode.AUTO and request.n == 3
    blind = judge_of(Scripted({}), images=False)
    assert blind.request(row, None).prompt.images == ()
    assert blind.request(row, None).choices == ()
    assert judge_of(Scripted({}), constrained=True).request(row, None).choices == (T, N)
    assert (
        request.seed
        != judge.request(row | {"round": 1}, None).seed
        == judge.request(row | {"round": 1, "missing": 1}, None).seed
    )


def test_what_decides_the_words_decides_the_cache_and_nothing_else() -> None:
    base = judge_of(Scripted({}))

    def other(**change: Any) -> str:
        return replace(base, config=base.config.model_copy(update=change)).params_hash

    assert other(votes=9, retries=0, concurrency=4, calibration_rows=0) == base.params_hash
    hashes = {
        other(prompt="{question}"),
        other(images=False),
        other(temperature=1.0),
        other(max_tokens=5),
        replace(base, max_model_len=9).params_hash,
        other(constrained=True),
    }
    hashes |= {
        replace(base, digest="x").params_hash,
        replace(base, seed=1).params_hash,
        replace(base, dtype="bfloat16").params_hash,
    }
    assert len(hashes | {base.params_hash}) == 10


def test_nothing_is_asked_twice_and_more_votes_ask_for_the_difference(
    file: Path, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Scripted({"open-0": [T, N, T, N, N], "open-1": [N] * 5, "open-2": [N] * 5})
    store, received = Store([file], tmp_path / "scratch"), list[int]()
    chosen = choose_open(store)
    assert chosen["id"].to_pylist() == [f"open-{k}" for k in range(4)], (
        "what a verifier judges is none of the judge's"
    )
    first = list(
        sample_verdicts(store.files, chosen, judge_of(worker), tmp_path / "cache", received.append)
    )
    assert (
        [v.mode for v in first] == [T, N, N, ""]
        and first[3].error == "too long"
        and received == [0, 4]
    )
    assert len(worker.asked) == 3
    more = list(
        sample_verdicts(
            store.files, chosen, judge_of(worker, votes=5), tmp_path / "cache", received.append
        )
    )
    assert [(v.thinking, v.non_thinking) for v in more] == [(2, 3), (0, 5), (0, 5), (0, 0)]
    assert [r.n for r in worker.asked[3:]] == [2, 2, 2]

    def no_engine(*_: object) -> Any:
        raise AssertionError("the engine was started for verdicts that are in the cache")

    monkeypatch.setattr(module, "run_pool", no_engine)
    again = list(
        sample_verdicts(
            store.files, chosen.slice(0, 3), judge_of(worker), tmp_path / "cache", received.append
        )
    )
    assert again == first[:3], "the first three votes, as before"


def test_another_content_is_another_question(file: Path, tmp_path: Path, without_ray: None) -> None:
    worker, store = Scripted({"open-0": [T, T, T, N, N, N]}), Store([file], tmp_path / "scratch")
    chosen = choose_open(store).slice(0, 1)
    list(sample_verdicts(store.files, chosen, judge_of(worker), tmp_path / "cache", print))
    changed = chosen.set_column(3, "content", pa.array(["other"]))
    [verdict] = sample_verdicts(store.files, changed, judge_of(worker), tmp_path / "cache", print)
    assert verdict.mode == N


def test_batches_stay_the_same_whatever_is_there(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 2)
    worker, store = Scripted({"open-0": [T] * 3}), Store([file], tmp_path / "scratch")
    chosen, judge = choose_open(store), judge_of(worker)
    first = {"request_mode": "auto", "round": 0, "first": 0, "sound": 0, "missing": 3}
    PromptWorker([file], judge, tmp_path / "c")(
        pa.Table.from_pylist([chosen.to_pylist()[0] | first])
    )
    batches = module.missing_rows(chosen, judge, tmp_path / "c")
    assert [[row["id"] for row in batch] for batch in batches] == [["open-1"], ["open-2", "open-3"]]


def test_tags_of_the_judge_are_its_own_and_failures_have_a_reason(
    file: Path, tmp_path: Path
) -> None:
    store, judge = Store([file], tmp_path / "scratch"), judge_of(Scripted({}))
    verdicts = [
        Verdict(0, 0, "open-0", T, 2, 1, 0),
        Verdict(0, 1, "open-1", "either", 1, 1, 4),
        Verdict(0, 2, "open-2", "", 0, 0, 9),
        Verdict(0, 3, "open-3", "", 0, 0, 0, "too long"),
    ]
    tag_open(store, verdicts, judge)
    expected = {
        "id": "open-0",
        "mode": T,
        "mode_reason": "judge",
        "mode_conf": pytest.approx(2 / 3),
        "rollout_model": "jury",
        "n_rollouts": 0,
        "tag_rule": "judge_majority",
        "reason": "",
        "detail": "",
    }
    rows = {row["id"]: row for row in store.table(list(expected)).to_pylist()}
    assert rows["open-0"] == expected
    assert (rows["open-1"]["mode"], rows["open-1"]["tag_rule"]) == ("either", "judge_tied")
    unclear = ("judge_unclear", "9 replies without a verdict")
    assert (rows["open-2"]["reason"], rows["open-2"]["detail"]) == unclear
    assert (rows["open-3"]["reason"], rows["open-3"]["detail"]) == ("judge_failed", "too long")
    assert rows["exact-0"]["mode_reason"] == "untagged" and not rows["exact-0"]["reason"]

    publish_verdicts(verdicts, tmp_path / "tags")
    votes = pq.read_table(tmp_path / "tags" / "verdicts.parquet")
    assert votes["non_thinking"].to_pylist() == [1, 1, 0, 0]


def test_a_judge_that_keeps_to_no_word_is_told_of() -> None:
    sound, silent = Verdict(0, 0, "a", T, 3, 0, 2), Verdict(0, 1, "b", "", 0, 0, 9)
    assert unparsed_warning([sound]) == unparsed_warning([]) == ""
    warning = unparsed_warning([sound, silent])
    assert "11 of the judge's 14 replies" in warning and "curate.judge.prompt" in warning


def test_without_a_judge_open_rows_are_set_aside_and_never_guessed(
    file: Path, tmp_path: Path
) -> None:
    store = Store([file], tmp_path / "scratch")
    set_aside(store, False)
    found = store.counts(["verifier", "reason"])
    assert found == {("exact", ""): 1, ("open", "needs_judge"): 4}
    assert choose_open(store).num_rows == 0


def test_the_rows_to_try_the_judge_on_have_a_clear_tag(file: Path, tmp_path: Path) -> None:
    table = pq.read_table(file)
    modes = [T, N, "either", T, N]
    at = [CANDIDATE_SCHEMA.get_field_index(name) for name in ("mode", "mode_reason")]
    table = table.set_column(at[0], "mode", pa.array(modes))
    table = table.set_column(at[1], "mode_reason", pa.array(["pass_rate"] * 4 + ["untagged"]))
    pq.write_table(table.cast(CANDIDATE_SCHEMA), tmp_path / "tagged.parquet")
    store = Store([tmp_path / "tagged.parquet"], tmp_path / "scratch")
    every = choose_tagged(store, 10)
    assert (
        sorted(every["id"].to_pylist()) == ["open-0", "open-1", "open-3"]
        and tuple(every.column_names) == CHOSEN
    )
    assert choose_tagged(store, 2)["id"].to_pylist() == every["id"].to_pylist()[:2]
    assert choose_tagged(store, 0).num_rows == 0


def test_replies_of_an_empty_cache_are_none(file: Path, tmp_path: Path) -> None:
    chosen = choose_open(Store([file], tmp_path / "scratch"))
    assert [(row["id"], found) for row, found in read_replies(tmp_path / "none", chosen)] == [
        (f"open-{k}", []) for k in range(4)
    ]


def test_the_open_questions_are_sound_and_their_length_does_not_tell_the_label() -> None:
    asked = [
        json.loads(line)
        for line in (ASSETS / "open-questions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert 40 <= len(asked) <= 60 and len({q["id"] for q in asked}) == len(
        {q["question"] for q in asked}
    ) == len(asked)
    assert {q["license"] for q in asked} == {"CC0-1.0"} and {q["label"] for q in asked} == {T, N}
    told = calibrate([Judged(q["id"], q["label"], q["label"], len(q["question"])) for q in asked])
    assert told.majority.accuracy == 0.5 and told.length.accuracy <= 0.6
    table = candidates(
        [replace(open_sample(q["id"], q["question"]), answer=q["answer"]) for q in asked],
        "train",
        CurateConfig(),
    )
    assert set(table["reason"].to_pylist()) == {""}
