"""Checks of single rows: each refusal beside the row next to it that passes."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from bimode.records import Sample
from bimode.storage.dataset import SCHEMA, Row, image_digest, sample_row
from data_curation.checks.validate import MAX_PIXELS, REASONS, check_row, check_rows

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8)), np.ones((4, 4))).astype(
    np.uint8
)  # 24 x 32
GRAY = Image.fromarray(PIXELS)
COLOR = Image.merge("RGB", [GRAY, GRAY.rotate(180), Image.fromarray(PIXELS[:, ::-1].copy())])


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def with_sums(data: bytes) -> bytes:
    """A PNG with its check sums put right: without that, a mutation of it is only ever a wrong
    check sum.
    """
    if not data.startswith(b"\x89PNG"):
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(out) and at + 12 + (
        length := int.from_bytes(out[at : at + 4], "big")
    ) <= len(out):
        out[at + 8 + length : at + 12 + length] = struct.pack(
            ">I", zlib.crc32(out[at + 4 : at + 8 + length])
        )
        at += 12 + length
    return bytes(out)


FILES = {
    "png gray": encoded(GRAY, "PNG"),
    "png color": encoded(COLOR, "PNG"),
    "png alpha": encoded(COLOR.convert("RGBA"), "PNG"),
    "png palette": encoded(COLOR.quantize(16), "PNG", transparency=0),
    "png bits": encoded(GRAY.convert("1"), "PNG"),
    "png 16": encoded(Image.fromarray(PIXELS.astype(np.uint16) * 200), "PNG"),
    "jpeg gray": encoded(GRAY, "JPEG"),
    "jpeg color": encoded(COLOR, "JPEG"),
    "jpeg progressive": encoded(COLOR, "JPEG", progressive=True),
    "jpeg cmyk": encoded(COLOR.convert("CMYK"), "JPEG"),
    "jpeg of a camera": encoded(COLOR, "MPO", save_all=True, append_images=[COLOR]),
    "gif": encoded(COLOR, "GIF"),
    "gif gray": encoded(GRAY, "GIF"),
    "webp": encoded(COLOR, "WEBP"),
    "webp lossless alpha": encoded(COLOR.convert("RGBA"), "WEBP", lossless=True),
    "bmp": encoded(COLOR, "BMP"),
    "tiff": encoded(COLOR, "TIFF"),
    "bmp palette": encoded(COLOR.convert("P"), "BMP"),
}
ANIMATED = {
    kind: encoded(COLOR, kind, save_all=True, append_images=[GRAY.convert("RGB")])
    for kind in ("GIF", "WEBP", "PNG")
}


def row_with(*images: bytes, **changes: Any) -> Row:
    """A sound row, then with `changes`."""
    sample = Sample(
        id="a-1",
        question="What is the total of all bars ?",
        images=images,
        answer="15",
        trace="7 + 8 = 15",
        transcription="",
        verifier="exact",
        verifier_args="{}",
        guess_rate=0.1,
        task="charts",
        domain="chart",
        level="easy",
        difficulty="{}",
        split="train",
        source="made here",
        source_license="CC0-1.0",
        source_refs=("made/1",),
    )
    return sample_row(sample, "train") | {"trace": sample.trace, "transcription": ""} | changes


def asked(text: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": text}]}


def without(name: str) -> Row:
    return {key: value for key, value in row_with().items() if key != name}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_picture_passes_with_the_digest_of_the_data_set(name: str) -> None:
    [checked] = check_rows([row_with(FILES[name])])
    assert (checked.reason, checked.detail) == ("", "")
    assert (
        checked.image_sha256 == image_digest([FILES[name]]) and checked.phash and checked.thumbnails
    )
    [plain] = check_rows([row_with(FILES[name])], hashed=False)
    assert plain == replace(checked, phash="", thumbnails=b""), "nobody looks for near pictures"


def test_several_pictures_have_one_digest_and_none_has_none() -> None:
    pair = [FILES["png gray"], FILES["gif"]]
    first, second = check_rows([row_with(*pair), row_with()])
    assert first.image_sha256 == image_digest(pair) and (second.image_sha256, second.phash) == (
        "",
        "",
    )


def test_rows_stay_as_they_are_and_a_single_row_gets_its_digest() -> None:
    row = row_with(FILES["bmp"])
    before = dict(row)
    [checked] = check_rows([row])
    assert row == before
    assert check_row(row) == ("", "")
    assert row == before | {"image_sha256": checked.image_sha256, "image_phash": checked.phash}


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"answer": " "}, "empty_answer", ""),
        ({"answer": None}, "empty_answer", ""),
        ({"prompt": []}, "empty_question", ""),
        (asked(" \n"), "empty_question", ""),
        (asked("<image>Sum ?"), "marker_mismatch", "1 markers, 0 images"),
        (asked("Close it with </think> ?"), "control_token", "</think> in the question"),
        ({"answer": "<image>"}, "control_token", "<image> in the answer"),
        ({"trace": "7 + 8 </think> 15"}, "control_token", "</think> in the trace"),
        ({"id": ""}, "bad_schema", "an empty id"),
        ({"split": "valid"}, "bad_schema", "split valid"),
        ({"guess_rate": 1.0}, "bad_schema", "guess_rate 1.0"),
        ({"guess_rate": float("nan")}, "bad_schema", "guess_rate: float instead of a number"),
        ({"n_rollouts": 1 << 15}, "bad_schema", "n_rollouts: int instead of a number of 16 bits"),
        ({"n_rollouts": True}, "bad_schema", "n_rollouts: bool instead of"),
        ({"task": None}, "bad_schema", "task: NoneType instead of text"),
        ({"source_refs": ("made/1",)}, "bad_schema", "source_refs: tuple instead of a list"),
        ({"prompt": [{"role": "user"}]}, "bad_schema", "prompt: content: NoneType instead of text"),
        (
            {"images": [{"bytes": "PNG", "path": None}]},
            "bad_schema",
            "images: bytes: str instead of bytes",
        ),
        ({"task": "x" * 1_000_001}, "bad_schema", "task: 1000001 characters"),
        ({"verifier": "oracle"}, "unknown_verifier", "oracle"),
        ({"verifier": None}, "unknown_verifier", "None"),
        (
            {"verifier_args": None},
            "unknown_verifier",
            "exact: verifier_args = : is not a JSON object",
        ),
        ({"verifier_args": "[]"}, "unknown_verifier", "verifier_args = []: is not a JSON object"),
        ({"verifier_args": "{"}, "unknown_verifier", "verifier_args = {: is not a JSON object"),
        ({"verifier_args": "[" * 100_000}, "unknown_verifier", "exact: verifier_args = [[["),
        ({"verifier_args": '{"a": ' + "1" * 5000 + "}"}, "unknown_verifier", "exact"),
        (
            {"verifier": "number", "verifier_args": '{"rel_tol": "1e999999999"}'},
            "unknown_verifier",
            "number",
        ),
        ({"verifier": "number", "verifier_args": '{"rel_tol": NaN}'}, "unknown_verifier", "number"),
        ({"verifier": "number", "verifier_args": '{"abs_tol": -1}'}, "unknown_verifier", "number"),
        ({"verifier": "reasoning_gym"}, "unknown_verifier", "no puzzle called NoneType"),
        ({"verifier": "int", "answer": "1,500"}, "answer_type", "int: 1,500"),
        ({"verifier": "int", "answer": "15.0"}, "answer_type", "int: 15.0"),
        ({"verifier": "number", "answer": "1/0"}, "answer_type", "number: 1/0"),
        ({"verifier": "choice", "answer": "()"}, "answer_type", "choice: ()"),
        ({"verifier": "choice", "answer": r"\boxed{} x"}, "answer_fails", "boxed"),
        ({"answer": "x" * 2001}, "long_answer", "2001 characters"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    [checked] = check_rows([row_with(**changes)])
    assert checked.reason == reason and detail in checked.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "decontaminate"},
        {"pass_rate_non_thinking": 0.25, "guess_rate": 0},
        {"source": "Zo\u00eb\u2019s \u56fe\u8868\n\t\u00a0"},
        {"verifier": "int", "answer": " -15 "},
        {
            "verifier": "number",
            "answer": "\u22121,500.25%",
            "verifier_args": '{"rel_tol": 0.05, "abs_tol": 1}',
        },
        {"verifier": "number", "answer": "3/4"},
        {"verifier": "choice", "answer": "(B)"},
        {"verifier": "choice", "answer": "yes"},
        {
            "verifier": "open",
            "answer": "It rises because " + "of that " * 1000,
        },  # no verifier reads it
        {
            "messages": [],
            "prompt": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Sum ?"},
            ],
        },
    ],
)
def test_the_row_next_to_it_passes(changes: dict[str, Any]) -> None:
    assert check_rows([row_with(**changes)])[0].reason == ""


@pytest.mark.parametrize("name", SCHEMA.names)
def test_no_column_may_be_missing(name: str) -> None:
    assert check_row(without(name)) == ("bad_schema", f"{name}: no such column")


@pytest.mark.parametrize("character", ["\0", "\x0c", "\x1b", "\x7f", "\ud83d", "\udc00"])
@pytest.mark.parametrize(
    "name", ["id", "answer", "trace", "transcription", "verifier_args", "source_license"]
)
def test_text_that_no_file_or_tokenizer_should_see_is_refused(name: str, character: str) -> None:
    r"""A form feed is what a JSON reader makes of ``"\frac"``."""
    row = row_with() | {name: f"1{character}5"}
    assert check_row(row) == ("bad_schema", f"{name}: U+{ord(character):04X} at character 1")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image_missing"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='99' height='99'/>", "image_type"),
        *(
            (text, "image_type")
            for text in (
                b"%PDF-1.7 ...",
                b"<!DOCTYPE html>404",
                b"no picture",
                b"BM begins this text",
            )
        ),
        *((encoded(COLOR, kind), "image_type") for kind in ("EPS", "PPM")),
        *((data, "image_type") for data in ANIMATED.values()),
        (encoded(GRAY.resize((7, 32)), "PNG"), "image_size"),
        (encoded(GRAY.resize((32, 4097)), "GIF"), "image_size"),
        (
            FILES["png gray"][:20] + b"\0\0\0\0" + FILES["png gray"][24:],
            "image_broken",
        ),  # a height of 0
        (
            FILES["jpeg gray"].replace(b"\xff\xdb", b"\xff\xfe"),
            "image_broken",
        ),  # without its quantization tables
        (FILES["png palette"].replace(b"PLTE", b"pLTE"), "image_broken"),
        (
            with_sums(FILES["png palette"].replace(b"PLTE", b"pLTE")),
            "image_broken",
        ),  # decodes, and has no colors
    ],
)
def test_an_image_that_is_none_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    found, detail = check_row(row_with(FILES["gif"], data))
    assert found == reason and detail.startswith("image 1: ")


def test_a_wrong_name_does_not_matter() -> None:
    row = row_with(FILES["jpeg color"])
    assert row["images"][0]["path"].endswith(".png") and check_row(row) == ("", "")
    row["images"][0]["path"] = None
    assert check_row(row) == ("", "")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_is_truncated(name: str) -> None:
    """At every tenth, but for the first bytes, of which nobody can tell what they were. A tail
    without pixels may be missing.
    """
    data, reasons = FILES[name], Counter[str]()
    for tenth in range(1, 10):
        [checked] = check_rows([row_with(data[: max(len(data) * tenth // 10, 32)])])
        reasons[checked.reason] += 1
        assert checked.reason == "image_truncated" or checked.image_sha256 == image_digest([data])
    assert reasons["image_truncated"] >= (
        4 if name == "jpeg of a camera" else 8
    )  # whose second half is a preview


def claiming(kind: str, width: int, height: int) -> bytes:
    """A small file whose header says it is so wide and high."""
    if kind == "PNG":
        header = struct.pack(">II", width, height) + FILES["png color"][24:29]
        body = b"IHDR" + header
        return (
            FILES["png color"][:12]
            + body
            + struct.pack(">I", zlib.crc32(body))
            + FILES["png color"][33:]
        )
    if kind == "JPEG":
        data = FILES["jpeg color"]
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if kind == "GIF":
        return FILES["gif"][:6] + struct.pack("<HH", width, height) + FILES["gif"][10:]
    if kind == "BMP":
        return FILES["bmp"][:18] + struct.pack("<ii", width, height) + FILES["bmp"][26:]
    data = FILES["webp"]
    at = data.index(b"\x9d\x01\x2a") + 3
    return data[:at] + struct.pack("<HH", width, height) + data[at + 4 :]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("side", [4097, 12_000, 16_383])
def test_a_bomb_is_refused_by_its_header(
    kind: str,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Nothing is decoded, and Pillow's warnings do not print."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", None)
    assert check_row(row_with(claiming(kind, side, side)))[0] == "image_size"
    assert capfd.readouterr() == ("", "") and not list(recwarn)


def test_images_of_a_row_have_one_bound_together() -> None:
    """Each is as large as one may be, and few bytes; five are more than the bound."""
    blank = encoded(Image.new("1", (4096, 4096)), "PNG")
    assert len(blank) < 10_000 and 4 * 4096 * 4096 <= MAX_PIXELS < 5 * 4096 * 4096
    assert check_row(row_with(blank))[0] == ""
    assert check_row(row_with(*[blank] * 5)) == (
        "image_size",
        f"image 4: 4096 x 4096 pixels, {len(blank)} bytes",
    )


def test_every_reason_has_one_line() -> None:
    for reason, line in REASONS.items():
        assert reason.replace("_", "").isalpha() and line and "\n" not in line
