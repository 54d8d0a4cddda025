"""A few rows to look at, with small pictures of their images; what cannot be decoded is said, and
never in the way.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bimode.inputs.pictures import PictureError, open_picture
from bimode.storage.dataset import Row
from data_curation.store import Store, read_candidates

SIDE = 240  # pixels of a picture on the page, at most
COLUMNS = (
    "file",
    "row",
    "id",
    "split",
    "task",
    "level",
    "source",
    "source_refs",
    "question",
    "answer",
    "trace",
    "mode",
    "mode_reason",
    "tag_rule",
    "n_rollouts",
    "n_pass_non_thinking",
    "n_pass_thinking",
    "reason",
    "detail",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a page shows it: a data URI, or why there is none, e.g. ``Picture("", "9000 x
    9000 pixels")``.
    """

    uri: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class SampleView:
    """A row with its pictures, and the row that its `detail` names, which it repeats."""

    row: Row
    pictures: tuple[Picture, ...]
    repeats: SampleView | None = None


def pick(store: Store, where: str, by: str, most: int) -> dict[str, list[SampleView]]:
    """The first `most` rows by id of each value of column `by`, among those that fulfil the SQL
    condition `where`.

    Only the row groups of what is picked are read for images.
    """
    first = (
        f"{where} QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY id, file, row) <= {most}"
    )
    picked = _show(store, first)
    details = {
        shown.row["detail"] for shown in picked if shown.row["reason"] and shown.row["detail"]
    }
    named = _show(store, f"id IN ({', '.join(map(quoted, sorted(details)))})") if details else []
    by_id = {
        shown.row["id"]: shown for shown in sorted(named, key=lambda shown: not shown.row["reason"])
    }  # a kept one wins
    found: dict[str, list[SampleView]] = {}
    for shown in picked:
        found.setdefault(shown.row[by], []).append(
            replace(shown, repeats=by_id.get(shown.row["detail"]))
        )
    return found


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _show(store: Store, where: str) -> list[SampleView]:
    """The rows of a condition that few fulfil: places first, then their columns, so that nothing
    wide is sorted.
    """
    places = [(row["file"], row["row"]) for row in store.table(["file", "row"], where).to_pylist()]
    if not places:
        return []
    images = _images(store, places)
    rows = store.table(COLUMNS, f"(file, row) IN ({', '.join(map(str, places))})").to_pylist()
    return [
        SampleView(
            row, tuple(picture(image["bytes"] or b"") for image in images[row["file"], row["row"]])
        )
        for row in rows
    ]


def _images(store: Store, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Row]]:
    found: dict[tuple[int, int], list[Row]] = {}
    for file in {file for file, _ in places}:
        rows = [row for of, row in places if of == file]
        lists = read_candidates(store.files[file], rows, ["images"])["images"].to_pylist()
        found |= {(file, row): images or [] for row, images in zip(rows, lists, strict=True)}
    return found


def picture(data: bytes) -> Picture:
    """`data` as a picture of at most `SIDE` pixels a side; a bomb is not decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on files that open all the same
            small = open_picture(data)
    except PictureError as error:
        return Picture("", error.detail)
    size = f"{small.width} x {small.height} pixels"
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return Picture(f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}", size)
