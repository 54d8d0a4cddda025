"""Layouts by columns: mapped names, choices, markers, ids, images."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from bimode.inputs.row_check import MAX_TEXT
from data_curation.sources.files import list_files
from data_curation.sources.layouts import read_record, read_samples, source_name
from data_curation.sources.readers import split_file
from tests.data_curation.test_layouts import OURS, no_files, png, refusal, sample, source_of, whole


def test_columns_as_mapped() -> None:
    columns = OURS | {"question": "q", "answer": "meta.label", "images": "img"}
    record = {
        "q": "Which one?",
        "meta": {"label": "ice"},
        "choices": ["wood", "ice"],
        "img": [png(), {"path": None, "bytes": png(1)}],
        "trace": "<think>\nIt melts.\n</think>",
        "id": 17,
        "task": "melting",
        "level": "hard",
    }
    found = sample("columns", record, columns=columns, name="mine", split="eval")
    assert (found.question, found.answer, found.images) == (
        "Which one?\nA. wood\nB. ice",
        "B",
        (png(), png(1)),
    )
    assert (found.id, found.task, found.level, found.trace) == (
        "mine-17",
        "melting",
        "hard",
        "It melts.",
    )
    assert (found.split, found.source, found.domain) == ("eval", "mine", "columns")
    assert sample("columns", record | {"level": "very hard"}, columns=columns).level == ""
    lacking = {
        key: value for key, value in record.items() if key not in ("trace", "id", "task", "level")
    }
    assert sample("columns", lacking, columns=columns).task == "set"
    for gone, said in (
        ("q", "'q'"),
        ("meta", "'meta.label'"),
        ("img", "'img'"),
        ("choices", "'choices'"),
    ):
        rest = {key: value for key, value in record.items() if key != gone}
        assert refusal("columns", rest, columns=columns) == ("bad_record", f"no column {said}")


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("ice", ["wood", "ice"], "B"),
        ("ICE", ["wood", "ice"], "B"),
        ("b", ["wood", "ice"], "B"),
        ("(A)", ["wood", "ice"], "A"),
        (1, ["wood", "ice"], "B"),
        ("1", ["wood", "ice"], "B"),
        ("A", ["B", "A"], "B"),
        (4, [3, 4], "B"),
        ("0", ["1", "0"], "B"),
        (0, ["1", "0"], "A"),
        ("x", ["wood", "ice"], ""),
        (2, ["a", "b"], ""),
        (True, ["a", "b"], ""),
        ("a", ["a", "a"], ""),
        (-1, ["a", "b"], ""),
        (1.0, ["a", "b"], ""),
        ("c", ["a", "b"], ""),
    ],
)
def test_an_answer_to_choices_is_a_text_a_letter_or_an_index(
    answer: object, choices: list[object], letter: str
) -> None:
    record = {"question": "?", "answer": answer, "choices": choices}
    mapped = {"question": "question", "answer": "answer", "choices": "choices"}
    if letter:
        found = sample("columns", record, columns=mapped)
        assert (found.answer, found.verifier, found.guess_rate) == (letter, "choice", 0.5)
    else:
        assert refusal("columns", record, columns=mapped)[0] == "bad_record"


@pytest.mark.parametrize("words", ["yes", "No", "TRUE", "false."])
def test_yes_and_no_are_guessed_half_of_the_time(words: str) -> None:
    assert sample("columns", {"question": "?", "answer": words}).guess_rate == 0.5


def test_markers_go_and_must_agree_with_the_images() -> None:
    mapped = {"question": "question", "answer": "answer", "images": "images"}
    record = {"question": "<image>\nWhat <image>is it?", "answer": "x", "images": [png(), png(1)]}
    assert sample("columns", record, columns=mapped).question == "What is it?"
    assert sample("columns", record | {"question": "What?"}, columns=mapped).images == (
        png(),
        png(1),
    )
    assert refusal("columns", record | {"images": [png()]}, columns=mapped) == (
        "marker_mismatch",
        "2 markers, 1 images",
    )
    nested = {"question": "a<ima<image>ge>", "answer": "x", "images": [png()]}
    assert refusal("columns", nested, columns=mapped)[0] == "marker_mismatch"
    assert refusal("columns", record | {"question": "<image> <image>"}, columns=mapped) == (
        "empty_question",
        "",
    )
    for tag in ("<think>", "</think>", "<image>"):
        assert refusal("columns", {"question": "?", "answer": f"a{tag}b"})[0] == "bad_record"


def test_ids_depend_on_place_question_and_bytes() -> None:
    mapped = {"question": "question", "answer": "answer", "images": "images"}
    record = {"question": "?", "answer": "1", "images": png()}
    first = sample("columns", record, columns=mapped)
    expected = json.dumps(["a#0", "?", [hashlib.sha256(png()).hexdigest()]]).encode()
    assert first.id == f"set-{hashlib.blake2b(expected, digest_size=12).hexdigest()}"
    others = [
        sample("columns", record | change, columns=mapped)
        for change in ({"question": "!"}, {"images": png(1)})
    ]
    moved = read_record(record, source_of("columns", columns=mapped), "a#1", no_files)
    assert len({first.id, *(each.id for each in others), whole(moved).id}) == 4
    assert sample("columns", record | {"answer": "2"}, columns=mapped).id == first.id


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/vqa.jsonl.gz", "vqa"),
        ("data/v1.2/", "v1.2"),
        ("s3://b/vqa/train-*.parquet", "train"),
        ("x/vqa/*.parquet", "vqa"),
        ("x/vqa/**/*.tar", "vqa"),
        ("s3://b/set.parquet?region=x", "set"),
        ("metadata.csv", "metadata"),
    ],
)
def test_a_source_is_called_after_its_path(path: str, name: str) -> None:
    assert source_name(source_of("llava", path)) == name
    assert source_name(source_of("llava", path, name="mine")) == "mine"


def test_images_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    uri = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    rows = [
        {"q": "?", "a": "1", "i": form}
        for form in (
            "1.png",
            ["1.png", uri],
            {"path": "1.png"},
            {"bytes": None, "path": "1.png"},
            None,
        )
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = source_of(
        "columns", tmp_path / "a.jsonl", columns={"question": "q", "answer": "a", "images": "i"}
    )
    (part,) = split_file(list_files(source.path, "auto")[0], "auto")
    assert [whole(each).images for each in read_samples(part, source)] == [
        (png(1),),
        (png(1), png(2)),
        (png(1),),
        (png(1),),
        (),
    ]


@pytest.mark.parametrize(
    "value",
    [
        7,
        "",
        True,
        {},
        [None],
        [[png()]],
        {"bytes": 3},
        "data:image/png,abc",
        "data:;base64,*",
        [png()] * 33,
    ],
)
def test_what_is_no_image_is_refused_by_its_column(value: object) -> None:
    mapped = {"question": "question", "answer": "answer", "images": "picture"}
    reason, detail = refusal(
        "columns", {"question": "?", "answer": "1", "picture": value}, columns=mapped
    )
    assert reason == ("image_missing" if value == "" else "bad_record") and detail.startswith(
        "picture: "
    )


@pytest.mark.parametrize("value", [None, 7, [], {}, b"x", "\ud800", "x" * (MAX_TEXT + 1)])
def test_what_is_no_text_is_refused_by_its_column(value: object) -> None:
    reason, detail = refusal("columns", {"question": value, "answer": "1"})
    assert reason == "bad_record" and detail.startswith("question: ")
    if value not in (7, None):  # a number is an answer too, and null one that is withheld
        reason, detail = refusal("columns", {"question": "?", "answer": value})
        assert reason == "bad_record" and detail.startswith("answer: ")
