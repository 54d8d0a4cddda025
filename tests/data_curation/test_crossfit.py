"""Cross-fitting: what a model was trained on is found in its run, and another one tags it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from bimode.config.curate import RolloutSampling
from bimode.errors import ConfigError
from data_curation.publishing.publish import publish
from data_curation.sampling.attempts import MODES
from data_curation.sampling.cache import write_replies
from data_curation.tagging.cross_fit import (
    assign_to_models,
    fold_of,
    leave_out_folds,
    questions,
    training_files,
)
from data_curation.tagging.tagging import Sampled, choose_rows, objective_rows, tag_rows
from tests.data_curation.flow import (
    CONFIG,
    attempt,
    candidate_files,
    decided,
    rows_of,
    tagged,
    tagger,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return candidate_files(tmp_path_factory.mktemp("candidates"))


def version(run: Path, name: str, digest: str) -> Path:
    folder = run / "curate" / "versions" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"stage": "curate", "outputs": {"data": digest}})
    )
    return folder


def stage(
    run: Path, name: str, digest: str, folder: str = "", started_from: str = "anneal's"
) -> Path:
    model = run / (folder or name) / "model"
    model.mkdir(parents=True)
    entry = {
        "stage": name,
        "inputs": {"data": digest, "model": started_from},
        "outputs": {"model": f"{name}'s"},
    }
    (model.parent / "manifest.json").write_text(json.dumps(entry))
    return model


def published(files: list[Path], run: Path, name: str, digest: str) -> Path:
    """A version of the three families in `run`; every train question is written in both formats."""
    scratch = run / "scratch" / name
    store = tagged(decided(files, scratch), scratch)
    publish(
        store,
        CONFIG.model_copy(update={"paired_share": 1.0}),
        ("train", "rl", "eval"),
        version(run, name, digest),
        name,
    )
    return run / "curate" / "versions" / name


def test_a_model_in_a_run_was_trained_on_the_version_that_its_stage_read(
    files: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first, second = published(files, run, "0001", "one"), published(files, run, "0002", "two")
    assert training_files(stage(run, "anneal", "one")) == tuple(
        sorted((first / "data").glob("train-*"))
    )
    bpo = training_files(stage(run, "bpo", "two"))
    assert [file.name.split("-")[0] for file in bpo] == [
        "train",
        "rl",
    ], "BPO's model was annealed before"
    assert bpo[0].is_relative_to(first) and bpo[1].is_relative_to(second)
    assert training_files(stage(run, "anneal", "two", "replaced/anneal-1"))[0].is_relative_to(
        second
    ), "one that was put aside, too"
    assert training_files(run / "curate") == () and training_files(tmp_path) == (), (
        "nothing is known of a model that no stage made"
    )


@pytest.mark.parametrize("second", ["anneal", "bpo"])
def test_a_model_knows_what_its_base_was_trained_on(
    files: list[Path], tmp_path: Path, second: str
) -> None:
    """The base of run `b` is the model of run `a`, as long as it is that one."""
    first, other = (
        published(files, tmp_path / "a", "0001", "one"),
        published(files, tmp_path / "b", "0001", "two"),
    )
    base, model = stage(tmp_path / "a", "anneal", "one"), stage(tmp_path / "b", second, "two")
    (tmp_path / "b" / "manifest.json").write_text(json.dumps({"base": {"path": str(base)}}))
    assert [file.parent.parent for file in training_files(model)] == [first, other]
    (base.parent / "manifest.json").write_text(
        (base.parent / "manifest.json").read_text().replace("anneal's\"}}", 'new"}}')
    )
    assert [file.parent.parent for file in training_files(model)] == [other]


def test_a_model_whose_data_is_gone_may_tag_nothing(tmp_path: Path) -> None:
    version(tmp_path, "0002", "two")
    with pytest.raises(ConfigError, match="no longer in"):
        training_files(stage(tmp_path, "anneal", "one"))


def test_bpo_knows_the_annealing_that_it_started_from(files: list[Path], tmp_path: Path) -> None:
    folder = published(files, tmp_path, "0001", "one")
    bpo = stage(tmp_path, "bpo", "one")
    assert [file.parent.parent for file in training_files(bpo)] == [folder], (
        "from the run's base: nothing but its own"
    )
    aside = stage(tmp_path, "anneal", "one", "replaced/anneal-2")
    assert len(training_files(bpo)) == 2
    (aside.parent / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="an annealing that is no longer in"):
        training_files(bpo)


@pytest.mark.parametrize(
    "text", ["not JSON", '{"stage": "models"}', "[]", '{"stage": "x", "outputs": {"model": ""}}']
)
def test_a_manifest_of_somebody_else_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "manifest.json").write_text(text)
    assert training_files(tmp_path / "model") == ()


def test_as_many_are_tagged_as_may_be_whatever_the_models_have_seen(
    files: list[Path], tmp_path: Path
) -> None:
    """What earlier rounds tagged comes first by its hash, and has been seen."""
    store = decided(files, tmp_path / "scratch")
    rows = objective_rows(store)
    seen = set(choose_rows(rows, 4)["content_key"].to_pylist())
    [unseen], known = assign_to_models(rows, [seen])
    assert known.num_rows == 4 and choose_rows(unseen, 4).num_rows == 4


def test_the_questions_of_published_rows_are_those_of_the_candidates(
    files: list[Path], tmp_path: Path
) -> None:
    folder = published(files, tmp_path, "0001", "one")
    store = decided(files, tmp_path / "scratch")
    found = questions((folder / "data").glob("train-*"))
    assert found and found <= set(
        store.table(["content_key"], "split = 'train'")["content_key"].to_pylist()
    )


def test_folds_share_no_question_and_lack_none(files: list[Path], tmp_path: Path) -> None:
    kept: list[set[str]] = []
    for at in range(3):
        store = decided(files, tmp_path / f"scratch-{at}")
        leave_out_folds(store, (at, 3))
        kept.append(set(store.table(["id"], "split = 'train' AND reason = ''")["id"].to_pylist()))
        assert {row["reason"] for row in rows_of(store, "split = 'train'")} <= {"", "other_fold"}
        assert not store.table(["id"], "split <> 'train' AND reason = 'other_fold'").num_rows, (
            "folds are of train questions"
        )
    assert (
        sum(map(len, kept))
        == len(set.union(*kept))
        == decided(files, tmp_path / "all")
        .table(["id"], "split = 'train' AND reason = ''")
        .num_rows
    )
    sizes = [
        sum(fold_of(f"{key:032x}", 3) == at for key in range(0, 1 << 124, 1 << 114))
        for at in range(3)
    ]
    assert max(sizes) - min(sizes) <= 1


def test_a_question_goes_to_the_first_model_that_has_not_seen_it() -> None:
    chosen = pa.table({"id": list("abcd"), "content_key": ["1", "2", "3", "4"]})
    dealt, rest = assign_to_models(chosen, [{"1", "2"}, {"2", "3"}])
    assert [table["id"].to_pylist() for table in dealt] == [["c", "d"], ["a"]] and rest[
        "id"
    ].to_pylist() == ["b"]
    [only], rest = assign_to_models(chosen, [frozenset()])
    assert only.equals(chosen) and not rest.num_rows


def test_each_question_has_the_tag_of_its_own_model_and_what_all_have_seen_is_rejected(
    files: list[Path], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"rollouts": RolloutSampling(n=4)})
    store = decided(files, tmp_path / "scratch")
    chosen = choose_rows(objective_rows(store), 0)
    keys = chosen["content_key"].to_pylist()
    dealt, known = assign_to_models(chosen, [set(keys[1:]), set(keys[:3])])
    sampled = []
    for at, rows in enumerate(dealt):
        folder = tmp_path / str(at)
        made = [
            attempt(row, mode, k, at == 0)
            for row in rows.to_pylist()
            for mode in MODES
            for k in range(4)
        ]
        write_replies(folder, made)
        sampled.append(Sampled(replace(tagger(config), name=f"half-{at}"), rows, folder))
    tag_rows(store, sampled, known, config)
    found = {row["content_key"]: row for row in rows_of(store, "split = 'train'")}
    assert [found[key]["rollout_model"] for key in keys[:4]] == ["half-0", "", "", "half-1"]
    assert [found[key]["n_pass_non_thinking"] for key in keys[:4]] == [4, 0, 0, 0]
    assert [found[key]["reason"] for key in keys[:4]] == ["", "trained_on", "trained_on", ""]
