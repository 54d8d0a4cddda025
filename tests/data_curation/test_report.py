"""The report page: sound HTML that asks for nothing, numbers of the rows, and no image that can
break it.
"""

from __future__ import annotations

import base64
import io
import re
import struct
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_curation.checks.validate import REASONS
from data_curation.publishing.publish import IN
from data_curation.publishing.published import Published
from data_curation.publishing.report import (
    Cost,
    ReportContext,
    Version,
    clip,
    code,
    pass_rates,
    read_costs,
    read_versions,
    render,
    tag_lines,
)
from data_curation.publishing.samples import SIDE, pick, picture
from data_curation.publishing.wording import short

sys.path.insert(0, str(Path(__file__).parent))
from curated_run import BROKEN, DIGITS, HASH, OTHER_HASH, Curated, curate

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """What is open, what was closed out of turn, what is asked for, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[tuple[str, tuple[int, int]]] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data: str) -> None:
        self.text += " " + " ".join(data.split()) if data.strip() else ""


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curate(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(curated: Curated) -> str:
    facts = ReportContext(
        title="Curation of demo",
        eval_items=200,
        eval_too_short=150,
        costs=read_costs(curated.run / "cache"),
        versions=read_versions(curated.run / "curate"),
        packages={"duckdb": "2"},
    )
    return render(curated.store, curated.published, facts)


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "PNG")
    return out.getvalue()


def test_page_is_balanced_and_asks_for_nothing(html: str) -> None:
    page = Page(html)
    assert (page.open, page.wrong) == ([], [])
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert page.tags.isdisjoint({"script", "link", "iframe"})
    assert not re.search(r"url\(|@import|https?://", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html


def test_what_rows_say_is_text_and_never_markup(html: str) -> None:
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html


def test_page_has_the_numbers_of_the_rows(html: str) -> None:
    """15 rows were read: 13 sound, 11 after two repeats, 10 after one contaminated, 9 after one
    untagged.
    """
    text = Page(html).text
    for part in (
        "15 rows were read, 9 are kept and 6 rejected",
        "read 15",
        "checked and filtered 13 2",
        "after dedup 11 2",
        "after decontamination 10 1",
        "published: train 6",
        "bad.jsonl unknown 1 0 0.0 %",
        "75.0 % of them (150)",
        "0/8 1 0",
        "6/8 1 0",
        "8/8 3 5",
        "rollouts tiny-base 3f3f3f3f 80 400 0",
        "0001 1970-01-01 00:00",
    ):
        assert part in text, part


def test_every_reason_has_its_sentence_and_a_sample(html: str, curated: Curated) -> None:
    rejected = html[html.index("Rejected rows") :]
    for reason in curated.published.rejects:
        assert f"<h3><code>{reason}</code>" in rejected and code(REASONS[reason]) in rejected
    assert BROKEN in rejected and "image: begins with" in rejected
    assert re.search(r"<small>refused-\w+ · train · bad\.jsonl#17</small>", rejected), (
        "an id of ours alone finds no record"
    )


def test_a_repeat_is_shown_beside_the_row_that_it_repeats(curated: Curated) -> None:
    rejected = pick(curated.store, "reason <> ''", "reason", 3)
    [shown] = rejected["duplicate"]
    assert shown.row["id"] == DIGITS.format(1)
    assert (
        shown.repeats is not None
        and shown.repeats.row["id"] == DIGITS.format(0)
        and shown.repeats.pictures[0].uri
    )
    [broken] = [shown for rows in rejected.values() for shown in rows if shown.row["id"] == BROKEN]
    assert broken.repeats is None and not broken.pictures[0].uri
    assert broken.pictures[0].note.startswith("begins with")


def test_pick_takes_the_first_of_each_value(curated: Curated) -> None:
    kept = pick(curated.store, f"{IN} AND split = 'train'", "mode", 2)
    assert {mode: [shown.row["id"] for shown in rows] for mode, rows in kept.items()} == {
        "thinking": [DIGITS.format(4)],
        "either": [DIGITS.format(6)],
        "non_thinking": [DIGITS.format(0), DIGITS.format(5)],
    }
    assert pick(curated.store, "false", "mode", 2) == {}


def test_a_page_without_tags_or_facts_is_sound_too(curated: Curated) -> None:
    curated_rows = Published({"train": 6}, {}, {}, {})
    page = Page(render(curated.store, curated_rows))
    assert (
        (page.open, page.wrong) == ([], [])
        and "Costs" not in page.text
        and "Earlier versions" not in page.text
    )


def test_tags_and_pass_rates_are_counted(curated: Curated) -> None:
    lines = tag_lines(curated.store)
    assert sum(sum(counts.values()) for _, _, counts in lines) == 5
    assert [task for task, _, _ in lines] == sorted(task for task, _, _ in lines)
    rates = {name: (direct, think) for name, direct, think in pass_rates(curated.store)}
    assert list(rates) == [f"{k}/8" for k in range(9)]
    assert {name: both for name, both in rates.items() if any(both)} == {
        "0/8": (1, 0),
        "6/8": (1, 0),
        "8/8": (3, 5),
    }


def test_costs_and_versions_are_read_off_the_run(curated: Curated, tmp_path: Path) -> None:
    assert read_costs(curated.run / "cache") == (
        Cost("rollouts", HASH, 80, 400, 0),
        Cost("rollouts", OTHER_HASH, 1, 5, 1),
    )
    rejects = curated.published.rejects
    assert read_versions(curated.run / "curate") == (
        Version("0001", "1970-01-01 00:00", {"train": 6, "rl": 2, "eval": 2}, rejects, 12.5),
    )
    assert read_costs(tmp_path) == () and read_versions(tmp_path) == ()


def test_warnings_stand_at_the_top_of_the_page(html: str, curated: Curated) -> None:
    page = render(
        curated.store,
        curated.published,
        ReportContext(warnings=("WARNING: 90% <b>", "WARNING: two")),
    )
    assert (
        page.count('role="alert">WARNING: ') == 2
        and "90% &lt;b&gt;" in page
        and 'role="alert"' not in html
    )


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"", "no bytes"),
        (b"no picture", "begins with b'no picture'"),
        (png(40, 40)[:60], "PNG: image file is truncated"),
    ],
)
def test_what_cannot_be_drawn_is_a_note(data: bytes, note: str) -> None:
    shown = picture(data)
    assert shown.uri == "" and shown.note.startswith(note)


@pytest.mark.parametrize(
    ("side", "note"), [(9000, "9000 x 9000 pixels"), (20_000, "too many pixels to decode")]
)
def test_a_bomb_is_not_decoded(side: int, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header alone says how large it is; the larger one Pillow itself refuses."""
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    small = png(8, 8, "1")
    header = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    shown = picture(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])
    assert shown.uri == "" and shown.note.startswith(note)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_large_image_of_any_kind_is_drawn_small(mode: str) -> None:
    shown = picture(png(960, 480, mode))
    with Image.open(io.BytesIO(base64.b64decode(shown.uri.split(",")[1]))) as small:
        assert small.size == (SIDE, SIDE // 2) and shown.note == "960 x 480 pixels"


@settings(max_examples=60)
@given(at=st.integers(0, 2000), junk=st.binary(max_size=40))
def test_no_damage_to_an_image_breaks_the_page(at: int, junk: bytes) -> None:
    sound = png(30, 20)
    shown = picture(sound[: at % len(sound)] + junk + sound[at % len(sound) + len(junk) :])
    assert shown.uri or shown.note


@given(st.text(), st.integers(1, 50))
def test_short_is_one_printable_line(text: str, most: int) -> None:
    line = short(text, most)
    assert len(line) <= most and line.isprintable()


def test_texts_are_cut_and_code_is_escaped() -> None:
    assert (
        short(None, 5) == ""
        and short("a  b\nc", 5) == "a b c"
        and short("abcdef", 5) == "abcd\N{HORIZONTAL ELLIPSIS}"
    )
    assert clip("a\nbcd", 3) == "a\n\N{HORIZONTAL ELLIPSIS}"
    assert code("in `x` <b>") == "in <code>x</code> &lt;b&gt;"
