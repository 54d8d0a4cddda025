"""Layouts: the real schema of each set gives the question that a reader of the set would ask (junk:
test_layouts_fuzzed.py).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bimode.config.curate import Layout, SourceConfig
from bimode.grading.verify import is_correct
from bimode.inputs.row_check import MAX_TEXT
from bimode.records import Sample
from data_curation.sources.files import list_files
from data_curation.sources.layouts import read_record, read_samples, source_name
from data_curation.sources.readers import split_file
from data_curation.sources.refusal import Refusal

OURS = {
    name: name
    for name in ("question", "answer", "images", "trace", "choices", "id", "task", "level")
}


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (9, 9), shade).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURE = {"bytes": png(), "path": "0.png"}


def source_of(layout: Layout, path: Path | str = "data/set.parquet", **more: Any) -> SourceConfig:
    columns = more.pop(
        "columns", {"question": "question", "answer": "answer"} if layout == "columns" else {}
    )
    return SourceConfig(path=str(path), layout=layout, columns=columns, **more)


def no_files(path: str) -> bytes:
    raise FileNotFoundError(path)


def convert(layout: Layout, record: object, **more: Any) -> Sample | Refusal:
    return read_record(record, source_of(layout, **more), "a#0", no_files)  # type: ignore[arg-type]


def sample(layout: Layout, record: object, **more: Any) -> Sample:
    found = convert(layout, record, **more)
    assert isinstance(found, Sample), found
    return found


def refusal(layout: Layout, record: object, **more: Any) -> tuple[str, str]:
    found = convert(layout, record, **more)
    assert isinstance(found, Refusal), found
    assert found.ref == "a#0"
    return found.reason, found.detail


def from_parquet(
    folder: Path, layout: Layout, schema: dict[str, pa.DataType], rows: list[dict[str, Any]]
) -> list[Sample | Refusal]:
    """Through the whole way: a Parquet file in the schema of the set, listed, split, read and laid
    out.
    """
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items()))), folder / "set.parquet"
    )
    source = source_of(layout, folder / "set.parquet", license="CC-BY-SA-4.0")
    return [
        found
        for file in list_files(source.path, "auto")
        for part in split_file(file, "auto")
        for found in read_samples(part, source)
    ]


def whole(found: Sample | Refusal) -> Sample:
    assert isinstance(found, Sample), found
    return found


TEXT, TEXTS = pa.string(), pa.list_(pa.string())
SCIENCEQA = {
    "image": IMAGE,
    "question": TEXT,
    "choices": TEXTS,
    "answer": pa.int8(),
    "hint": TEXT,
    "task": TEXT,
    "grade": TEXT,
    "subject": TEXT,
    "topic": TEXT,
    "category": TEXT,
    "skill": TEXT,
    "lecture": TEXT,
    "solution": TEXT,
}


def test_scienceqa(tmp_path: Path) -> None:
    row = {
        "image": PICTURE,
        "question": "Which one melts?",
        "choices": ["wood", "ice", "air"],
        "answer": 1,
        "hint": "It is warm.",
        "lecture": "Solids can melt.",
        "solution": "Ice is frozen water.",
    }
    text_only = row | {"image": None, "hint": "", "lecture": "", "solution": ""}
    first, second, third = from_parquet(
        tmp_path, "scienceqa", SCIENCEQA, [row, text_only, row | {"answer": 3}]
    )
    expected = Sample(
        id=whole(first).id,
        question="It is warm.\nWhich one melts?\nA. wood\nB. ice\nC. air",
        images=(png(),),
        answer="B",
        trace="Solids can melt.\n\nIce is frozen water.",
        transcription="",
        verifier="choice",
        verifier_args="{}",
        guess_rate=1 / 3,
        task="set",
        domain="scienceqa",
        level="",
        difficulty="{}",
        split="train",
        source="set",
        source_license="CC-BY-SA-4.0",
        source_refs=("set.parquet#0",),
    )
    assert first == expected
    assert (whole(second).question, whole(second).images, whole(second).trace) == (
        "Which one melts?\nA. wood\nB. ice\nC. air",
        (),
        "",
    )
    assert third == Refusal(
        "set.parquet#2", "bad_record", "answer: not the index of one of 3 choices"
    )


def test_ai2d(tmp_path: Path) -> None:
    schema = {"question": TEXT, "options": TEXTS, "answer": TEXT, "image": IMAGE}
    row = {
        "question": "What eats grass?",
        "options": ["3", "2", "1", "0"],
        "answer": "2",
        "image": PICTURE,
    }
    (found,) = from_parquet(tmp_path, "ai2d", schema, [row])
    assert whole(found).answer == "C", (
        "the answer is an index, also where it is the text of another option"
    )
    assert (
        whole(found).question.endswith("A. 3\nB. 2\nC. 1\nD. 0") and whole(found).guess_rate == 0.25
    )


def test_chartqa(tmp_path: Path) -> None:
    schema = {"image": IMAGE, "query": TEXT, "label": TEXTS, "human_or_machine": pa.int64()}
    rows = [
        {"image": PICTURE, "query": "What is shown?", "label": [label], "human_or_machine": 0}
        for label in ("14", "0.57", "Yes", "Light Blue")
    ]
    found = [whole(each) for each in from_parquet(tmp_path, "chartqa", schema, rows)]
    assert [each.verifier for each in found] == ["number", "number", "choice", "open"]
    assert [each.guess_rate for each in found] == [0.0, 0.0, 0.5, 0.0]
    judge = (found[0].answer, found[0].verifier, found[0].verifier_args)
    assert is_correct("</think>14.6", *judge) and not is_correct("</think>14.8", *judge), (
        "5 % of 14 is 0.7"
    )
    assert sample("chartqa", {"image": png(), "query": "?", "label": ["a", "b"]}).answer == "a, b"


def test_gsm8k(tmp_path: Path) -> None:
    answer = "She sold 48/2 = <<48/2=24>>24 clips.\nThat is 48+24 = <<48+24=72>>72.\n#### 1,072"
    rows = [
        {"question": "How many clips?", "answer": answer},
        {"question": "How many?", "answer": "72"},
    ]
    first, second = from_parquet(tmp_path, "gsm8k", {"question": TEXT, "answer": TEXT}, rows)
    assert whole(first).trace == "She sold 48/2 = 24 clips.\nThat is 48+24 = 72."
    assert (whole(first).answer, whole(first).verifier, whole(first).images) == ("1072", "int", ())
    assert is_correct("</think>1,072", "1072", "int", "{}")
    assert second == Refusal("set.parquet#1", "bad_record", "answer: no #### before the result")


MATHVISTA = {
    "pid": TEXT,
    "question": TEXT,
    "image": TEXT,
    "decoded_image": IMAGE,
    "choices": TEXTS,
    "unit": TEXT,
    "precision": pa.float64(),
    "answer": TEXT,
    "question_type": TEXT,
    "answer_type": TEXT,
    "metadata": pa.struct([("grade", TEXT)]),
    "query": TEXT,
}


def test_mathvista(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "pid": "1",
        "question": "How long?",
        "image": "images/1.jpg",
        "decoded_image": PICTURE,
        "query": "Hint: ...",
    }
    rows = [
        row
        | {
            "answer": "larger than",
            "choices": ["equal to", "larger than"],
            "question_type": "multi_choice",
        },
        row | {"answer": "1.2", "unit": "cm", "precision": 1.0, "answer_type": "float"},
        row | {"answer": "5", "choices": [], "answer_type": "integer"},
        row | {"answer": ""},
        row | {"answer": "2", "decoded_image": None},
    ]
    chosen, decimal, integer, withheld, missing = from_parquet(
        tmp_path, "mathvista", MATHVISTA, rows
    )
    assert (whole(chosen).answer, whole(chosen).question) == (
        "B",
        "How long?\nA. equal to\nB. larger than",
    )
    assert whole(decimal).question == "How long? (Unit: cm)\nGive the answer with 1 decimal place."
    judge = ("1.2", whole(decimal).verifier, whole(decimal).verifier_args)
    assert is_correct("</think>1.24", *judge) and not is_correct("</think>1.26", *judge)
    assert (whole(integer).verifier, whole(integer).question) == ("int", "How long?")
    assert withheld == Refusal("set.parquet#3", "empty_answer", ""), (
        "the answers of its test split are withheld"
    )
    assert missing == Refusal("set.parquet#4", "image_missing", "image: 'images/1.jpg'")
    assert (
        sample("mathvista", {"query": "Only this?", "answer": "3", "image": None}).question
        == "Only this?"
    )


def test_llava(tmp_path: Path) -> None:
    turn = pa.struct([("from", TEXT), ("value", TEXT)])
    schema = {"id": TEXT, "image": TEXT, "conversations": pa.list_(turn)}
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/1.jpg").write_bytes(png())
    asked = {"from": "human", "value": "<image>\nWhat is it?"}
    told = {"from": "gpt", "value": "A cat on a mat."}
    again = [
        {"from": "human", "value": "What colour?"},
        {"from": "gpt", "value": "Red"},
        {"from": "human", "value": "Sure?"},
    ]
    rows: list[dict[str, Any]] = [
        {"id": "1", "image": "coco/1.jpg", "conversations": [asked, told]},
        {"id": "1", "image": "coco/1.jpg", "conversations": [asked, told, *again]},
        {"id": "2", "image": None, "conversations": [asked, told]},
        {"id": "3", "image": "../1.jpg", "conversations": [asked, told]},
        {"id": "4", "image": "coco/2.jpg", "conversations": [asked, told]},
        {"id": "5", "image": None, "conversations": [asked]},
    ]
    first, second, *rest = from_parquet(tmp_path, "llava", schema, rows)
    assert (whole(first).question, whole(first).answer, whole(first).verifier) == (
        "What is it?",
        "A cat on a mat.",
        "open",
    )
    assert whole(first).images == (png(),)
    assert (
        whole(second).question
        == "User: What is it?\n\nAssistant: A cat on a mat.\n\nUser: What colour?"
    )
    assert (whole(second).answer, whole(second).verifier) == ("Red", "choice")
    assert whole(first).id != whole(second).id, "the set's own ids repeat"
    assert [(each.reason, each.detail) for each in rest if isinstance(each, Refusal)] == [
        ("marker_mismatch", "1 markers, 0 images"),
        ("bad_record", "image: '../1.jpg' is no path inside the source"),
        ("image_missing", "image: 'coco/2.jpg'"),
        ("empty_answer", "conversations: no turn of the assistant"),
    ]


def user(*parts: object) -> dict[str, object]:
    return {"role": "user", "content": list(parts)}


def test_chat_in_openais_form() -> None:
    uri = "data:image/png;base64," + base64.b64encode(png(7)).decode()
    asked = user(
        {"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "How many?"}
    )
    system = {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "<think>\nI count 1 and 2.\n</think>\n\n2"}
    found = sample("chat", {"messages": [system, asked, answer]})
    assert (found.question, found.answer, found.trace, found.images) == (
        "Be brief.\n\nHow many?",
        "2",
        "I count 1 and 2.",
        (png(7),),
    )
    direct = sample("chat", {"messages": [asked, answer | {"content": "<think>\n\n</think>\n\n2"}]})
    assert (direct.answer, direct.trace) == ("2", ""), "an empty think block is no reasoning"


def test_chat_with_images_in_a_column() -> None:
    plain = {
        "messages": [
            {"role": "user", "content": "<image><image>Which?"},
            {"role": "assistant", "content": "left"},
        ]
    }
    pair = [{"bytes": png(1), "path": None}, png(2)]
    assert sample("chat", plain | {"images": pair}).images == (png(1), png(2))
    assert refusal("chat", plain | {"images": pair[:1]}) == (
        "marker_mismatch",
        "2 markers, 1 images",
    )
    places = {"type": "image", "text": None}, {"type": "text", "text": "Which?"}
    parts = {"messages": [user(*places), plain["messages"][1]], "image": pair[0]}
    assert (sample("chat", parts).question, sample("chat", parts).images) == ("Which?", (png(1),))
    assert sample("chat", {"messages": [user("Which?")], "answer": 7}).answer == "7", (
        "as in data for reinforcement learning"
    )


def test_what_a_chat_cannot_be() -> None:
    answer = {"role": "assistant", "content": "2"}
    for messages, reason in (
        ([answer], "empty_question"),
        ([user("  "), answer], "empty_question"),
        ([user("a")], "empty_answer"),
        ([user("a"), answer | {"content": "<think>cut off"}], "bad_record"),
        ([user("a"), answer | {"content": "Well. <think>a</think>2"}], "bad_record"),
        ([user("a"), answer | {"content": "<think>so</think>"}], "empty_answer"),
        ([user("a"), answer | {"content": None}], "bad_record"),
        ([user("a"), {"role": "tool", "content": "x"}, answer], "bad_record"),
        ([user({"type": "audio"}), answer], "bad_record"),
        (
            [user({"type": "image_url", "image_url": "https://x/1.png"}, "a"), answer],
            "image_missing",
        ),
        ([user("a"), answer | {"content": [{"type": "image", "image": png()}]}], "bad_record"),
        ("text", "bad_record"),
    ):
        assert refusal("chat", {"messages": messages})[0] == reason, messages


def test_an_answer_that_is_withheld_is_missed_in_items_of_check_alone() -> None:
    """Those are what test splits are for here: no row may repeat their questions."""
    asks = {
        "question": "How long?",
        "answer": None,
        "image": None,
        "choices": ["a", "b"],
        "options": ["a", "b"],
    }
    cases: tuple[tuple[Layout, dict[str, Any]], ...] = (
        ("columns", asks),
        ("scienceqa", asks),
        ("ai2d", asks),
        ("mathvista", asks),
        ("mathvista", asks | {"answer": ""}),
        ("chartqa", {"query": "How long?", "label": [], "image": None}),
        ("chat", {"messages": [user("How long?")]}),
        ("llava", {"conversations": [{"from": "human", "value": "How long?"}]}),
    )
    for layout, record in cases:
        item, (reason, _) = sample(layout, record, split="decontaminate"), refusal(layout, record)
        assert (item.question[:9], item.answer, item.verifier, reason) == (
            "How long?",
            "",
            "open",
            "empty_answer",
        )


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
