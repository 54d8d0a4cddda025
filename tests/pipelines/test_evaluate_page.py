"""The page of an evaluation, its pictures, and its last words."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.recipe import Recipe
from bimode.errors import StarvedError
from bimode.modes import Mode
from bimode.records import Sample
from bimode.renderer import Renderer
from bimode.storage.dataset import SCHEMA, sample_row
from bimode.storage.run_dir import StageDir
from pipelines import evaluate
from pipelines.report import page, plots
from pipelines.report.results import read_results, write_results
from pipelines.report.summary import summary
from tests.pipelines.test_evaluate import (
    ALL_MODES,
    check_schema,
    made_report,
    prompts_of,
    samples,
    verdicts,
)


class Page(HTMLParser):
    """What a page refers to and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.external: list[str] = []
        self.headings: list[str] = []
        self.selects: list[str] = []
        self._at = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._at = tag
        self.external += [
            v for k, v in named.items() if k in ("src", "href", "xlink:href") and v and v[0] != "#"
        ]
        if tag == "select":
            self.selects.append(named["id"] or "")

    def handle_data(self, data: str) -> None:
        if self._at in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())


def test_the_page_says_the_numbers_in_words_and_holds_every_response(tmp_path: Path) -> None:
    made = samples(6)
    results = {"anneal": verdicts(made, ()), "bpo": verdicts(made, ("mid", "hard"))}
    report = made_report(results)
    metrics = tmp_path / "metrics.jsonl"
    first = '{"step": 0, "reward": 0.5, "modes": {"thinking": {"all": {"reward": 0.7}}}}'
    metrics.write_text(first + '\n{"step": 1, "decision": {"easy": 0.4}}\n{"step": 2, "rew')
    figures = plots.draw(results, report, metrics, tmp_path)
    names = ["accuracy_tokens", "bpo_decision", "bpo_reward", "crossover", "think_rate"]
    assert sorted(figures) == names
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in figures)
    assert "thinking" in figures["bpo_reward"], (
        "the reward of a mode is drawn where the metrics have it"
    )
    trained = {"algorithm": "per_mode", "decision": "counterfactual", "steps": 40}
    trained |= {"shuffle_rewards": False}
    rang = {"step": 7, "kind": "choice", "mode": "non_thinking"}
    rang |= {"says": "auto mode answers directly on <every> level"}
    run = page.Run("demo </script>", {"alive": 40, "tags": {"thinking": 9}}, trained, alarms=[rang])
    text = page.render(report, results, prompts_of(made), figures, run)
    parsed = Page(text)
    assert parsed.external == [], "self-contained"
    assert set(parsed.selects) == {"model", "task", "level", "mode", "outcome"}
    assert "What bpo gained over anneal" in parsed.headings
    assert (
        "bpo thinks on 100 % of the hard questions and 0 % of the easy ones, and so keeps 100 %"
        in text
    )
    assert "algorithm: per_mode, decision: counterfactual, 40 steps<" in text
    assert (
        "<td>7</td>" in text
        and "choice, non-thinking mode" in text
        and "directly on &lt;every&gt; level" in text
    )
    quiet = page.render(report, results, prompts_of(made), figures, page.Run("demo", {}))
    assert "algorithm:" not in quiet and "Alarms of BPO" not in quiet
    assert (
        "tagged · thinking" in text
        and "<td>alive</td>" not in text
        and "By task" in parsed.headings
    )
    assert not re.search("knob|[Tt]rigger|bimode/", text), "words of the code"
    assert (
        "All 9 tags are thinking: the evidence says of each question that direct answers are poor"
        in text
    )
    assert "data d · temperature 0.0 · python 3.11" in " ".join(text.split()), (
        "the seed stands among the sampling, once"
    )
    assert text.count("<svg") == len(figures)
    embedded = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert embedded
    data = json.loads(embedded[1])
    assert data["models"] == ["anneal", "bpo"]
    assert {i["id"] for i in data["items"]} == {s.id for s in made}
    assert data["items"][0]["images"][0].startswith("data:image/png;base64,")
    assert data["items"][0]["responses"]["bpo"]["thinking"][0] == 1


def test_a_funnel_of_nothing_is_no_division_by_zero() -> None:
    counts = {"rows": {"train": 4, "rl": 1}, "rejects": {"duplicate": 0}, "other": 3}
    assert page.funnel(counts) == [
        ("rows in · train", 4, 1.0),
        ("rows in · rl", 1, 0.25),
        ("rejected as · duplicate", 0, 0.0),
    ]


@pytest.mark.parametrize("tags", [{}, {"thinking": 5, "either": 1}])
def test_tags_of_several_kinds_need_no_explanation(tags: dict[str, int]) -> None:
    assert page.tags_words(tags) == ""
    assert page.tags_words({"either": 2}).startswith(
        "All 2 tags are either: the evidence decides for no question"
    )


def test_the_last_words_are_accuracy_tokens_thinking_and_the_page(tmp_path: Path) -> None:
    """Of the last model, in every mode that was run; whoever watched the run need not open the page
    for that.
    """
    made = samples(30)
    results = {"anneal": verdicts(made, ()), "runs/bpo": verdicts(made, ("mid", "hard"))}
    write_results(tmp_path / "results" / "runs/bpo.jsonl", results["runs/bpo"])
    (tmp_path / "report.json").write_text(json.dumps(made_report(results)))
    easy = sum(s.level == "easy" for s in made) / 60
    assert summary(tmp_path) == [
        f"runs/bpo, accuracy on 60 questions: non-thinking {100 * easy:.0f} %, auto 100 %,"
        " thinking 100 %",
        f"tokens a response: non-thinking 5.0, auto {5 * easy + 20 * (1 - easy):.1f},"
        " thinking 20.0",
        "thinks on easy 0 %, mid 100 %, hard 100 %",
        f"page: {tmp_path}/report.html",
    ]
    assert summary(tmp_path / "absent") == []


@pytest.mark.parametrize(
    "names", [("base", "anneal", "bpo"), ("models/a-name-that-would-take-half-of-the-picture",)]
)
def test_models_that_meet_in_a_point_are_all_seen_and_no_text_covers_another(
    names: tuple[str, ...],
) -> None:
    """Untrained and trained models often answer alike in a mode; token counts have four digits on a
    real model.
    """
    made = samples(10)
    results = {name: verdicts(made, ("hard",)) for name in names}
    report = made_report(results)
    for model in report["models"].values():
        for at in (*model["overall"].values(), *model["routing"]["baselines_detail"].values()):
            at["tokens_mean"] *= 123
    with plots._canvas("t", plots.WIDE) as (figure, axes):
        plots._accuracy_tokens(axes, results, report)
        figure.canvas.draw()
        scored = [line for line in axes.lines if len(line.get_xdata()) == 1]
        looks = {
            (*line.get_xydata()[0], line.get_marker(), line.get_markersize()) for line in scored
        }
        assert len(looks) == len(scored) == 3 * len(names) + 2, (
            "a marker is under one of its own shape and size"
        )
        hollow = [
            line.get_markerfacecolor() == "none" for line in scored if line.get_marker() not in "ox"
        ]
        assert all(hollow), "a filled marker hides what is below it"
        texts = [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.get_legend().get_texts()]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert axes.get_window_extent().width > 0.55 * figure.bbox.width, (
            "the legend leaves room for the picture"
        )


def test_questions_without_levels_have_neither_empty_pictures_nor_dashes_for_them(
    tmp_path: Path,
) -> None:
    """As files of one's own are. Auto mode thinks on the hard ones, which nobody has named so."""
    made = samples(30)
    results = {
        name: [replace(item, level="") for item in verdicts(made, thinks)]
        for name, thinks in (("anneal", ()), ("bpo", ("hard",)))
    }
    report = made_report(results)
    assert set(plots.draw(results, report, None, tmp_path)) == {"accuracy_tokens"}
    assert not {"think_rate", "crossover"} & {file.stem for file in tmp_path.iterdir()}
    told = page.headline(report, results)
    rate = page.percent(report["models"]["bpo"]["overall"]["auto"]["think_rate"])
    assert told.cards[0][:2] == (rate, "thinks on all questions")
    assert f"bpo thinks on {rate} of all questions" in told.sentences[0]
    assert "anneal, thought on 0 % of all questions" in told.sentences[-1]
    unknown = [{"step": 0, "decision": {"all": 0.5}}]
    with plots._canvas("t", None) as (_, axes):
        plots._decisions(axes, unknown)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all"]


@pytest.mark.parametrize("steps", [1, 2, 300])
def test_steps_are_whole_numbers_and_a_single_one_is_seen(steps: int) -> None:
    """A reward that stays at 0 is drawn at the foot of 0 to 1, not between -0.04 and 0.04."""
    made = [{"step": step, "reward": 0.0, "decision": {"easy": 0.5}} for step in range(steps)]
    for draw in (plots._rewards, plots._decisions):
        with plots._canvas("t", None) as (figure, axes):
            draw(axes, made)
            figure.canvas.draw()
            assert all(float(at).is_integer() for at in axes.get_xticks()) and axes.get_ylim() == (
                -0.03,
                1.04,
            )
            assert (steps > 1) or any(line.get_marker() == "o" for line in axes.lines)


def test_equal_numbers_give_equal_bytes(tmp_path: Path) -> None:
    made = samples(4)
    results = {"bpo": verdicts(made, ("hard",))}
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report = made_report(results)
        figures = plots.draw(results, report, None, tmp_path / name)
        pages.append(page.render(report, results, prompts_of(made), figures, page.Run("demo", {})))
    assert pages[0] == pages[1]
    assert (tmp_path / "one" / "think_rate.png").read_bytes() == (
        tmp_path / "two" / "think_rate.png"
    ).read_bytes()


def write_eval(folder: Path, made: list[Sample]) -> Path:
    folder.mkdir(parents=True)
    rows = pa.Table.from_pylist([sample_row(s, "eval") for s in made], schema=SCHEMA)
    pq.write_table(rows, folder / "eval-00000.parquet")
    return folder


def small_recipe() -> Recipe:
    return Recipe.of(
        {
            "name": "small",
            "model": {"base": "new:tiny-llava"},
            "evaluate": {
                "max_tokens": 12,
                "h_acc_items": 2,
                "h_acc_samples": 2,
                "bootstrap": 50,
                "workers": 1,
            },
        }
    )


def test_an_empty_split_is_said(tmp_path: Path) -> None:
    data = write_eval(tmp_path / "data", [])
    with pytest.raises(StarvedError, match="no eval rows"):
        evaluate.execute(
            small_recipe(), StageDir(tmp_path, "evaluate"), {"data": data, "base": tmp_path}
        )


def refuse(*_: object) -> None:
    raise AssertionError("asked again")


@pytest.mark.ray
def test_models_of_one_shape_are_evaluated_on_one_engine(
    ray_local: Any, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bimode.models.template import CHAT_TEMPLATE
    from bimode.models.tiny_llava import write_tiny_llava

    other = write_tiny_llava(tmp_path / "other", CHAT_TEMPLATE, seed=7)
    again = Path(shutil.copytree(tiny_llava, tmp_path / "again"))
    made = samples(6)
    long = replace(made[0], id="long", question=" ".join(["read"] * 300))
    data = write_eval(
        tmp_path / "data", [*made, replace(made[0], id="five", images=made[0].images * 5), long]
    )
    stage = StageDir(tmp_path, "evaluate")
    models = {"base": tiny_llava, "anneal": other, "bpo": again}
    result = evaluate.execute(small_recipe(), stage, {"data": data, **models})

    assert result.counts == {
        "items": 14,
        "models": ["base", "anneal", "bpo"],
        "responses": 3 * (12 * 3 + 2 * 2 * 2),
    }
    assert all((stage.path / name).exists() for name in result.outputs)
    report = json.loads((stage.path / "report.json").read_text())
    check_schema(report)
    assert set(report["models"]) == {"base", "anneal", "bpo"}
    assert all(set(m["overall"]) == ALL_MODES for m in report["models"].values())
    assert report["data"]["n"] == 14
    tokens = Renderer(tiny_llava).num_prompt_tokens(long.question, long.images)
    too_long = f"{tokens} tokens, at most 253 (max_model_len = 256, 3 of them for the response)"
    items = [{"id": "five", "reason": "5 images, at most 4"}, {"id": "long", "reason": too_long}]
    assert report["data"]["refused"] == {name: {"n": 2, "items": items} for name in models}
    found = {name: read_results(stage.path / "results" / f"{name}.jsonl") for name in models}
    assert found["bpo"] == found["base"], (
        "the first weights, swapped back in, give the first responses"
    )
    assert found["anneal"] != found["base"], "other weights are live in between"
    for item in [item for item in found["base"] if not item.refused]:
        assert all(0 < o.tokens <= 12 for o in item.greedy.values())
        assert item.greedy[Mode.NON_THINKING].text.startswith("\n\n</think>")
        assert not item.greedy[Mode.NON_THINKING].thought

    # nothing is asked twice, not even under another name with the stage gone; other settings are
    # another question
    shutil.rmtree(stage.path)
    monkeypatch.setattr("actors.rollout.evaluator.Evaluator.open", refuse)
    evaluate.execute(small_recipe(), stage, {"data": data, "anneal": tiny_llava, "base": other})
    assert read_results(stage.path / "results" / "anneal.jsonl") == found["base"]
    assert read_results(stage.path / "results" / "base.jsonl") == found["anneal"]
    with pytest.raises(AssertionError, match="asked again"):
        evaluate.execute(
            small_recipe().model_copy(update={"seed": 5}), stage, {"data": data, "base": other}
        )
