"""Layouts: the real schema of each set gives the question that a reader of the set would ask (junk:
test_layouts_fuzzed.py).
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bimode.config.curate import Layout, SourceConfig
from bimode.grading.verify import is_correct
from bimode.records import Sample
from data_curation.sources.files import list_files
from data_curation.sources.layouts import read_record, read_samples
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
        {"from": "human", "value": "What color?"},
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
        == "User: What is it?\n\nAssistant: A cat on a mat.\n\nUser: What color?"
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
