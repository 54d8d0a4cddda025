"""WebDataset: tar archives whose entries with the same name up to the first dot are one record.

The archive is read as a stream. Python's `tarfile` takes a broken header for the end, reads
extended headers whole and seeks as far as a header says; `Header` bounds and names all three.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_curation.sources.readers.parts import (
    FilePart,
    Read,
    Record,
    open_plain,
    parse_object,
    refuse,
)

MAX_RECORD = 64 << 20  # bytes of a record's entries
MAX_MEMBER = 1 << 30  # bytes of any member, read or not
MAX_EXTENDED = 1 << 20  # bytes of a header's extension
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
TEXTS = ("txt", "text", "cls")


class Header(tarfile.TarInfo):
    """A member's header that is sound and bounded, or tarfile.ReadError."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        extends = header.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            *tarfile.GNU_TYPES[:2],
        )
        return cls._bounded(header, MAX_EXTENDED if extends else MAX_MEMBER)

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Header:
        return cls._bounded(
            super().fromtarfile(tarfile_), MAX_MEMBER
        )  # an extended header may have said another size

    @staticmethod
    def _bounded(header: Header, most: int) -> Header:
        if not 0 <= header.size <= most:
            raise tarfile.ReadError(f"a member of {header.size} bytes")
        return header


@dataclass(slots=True)
class Group:
    """The entries of one record by ending, e.g. ``Group("train/0001", {"jpg": b"...", "json":
    b"..."})``.
    """

    key: str
    entries: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    problem: str = ""


def read_webdataset(part: FilePart) -> Read:
    """A record a group: the fields of its `.json`, texts and images under their endings, all images
    also as `images`.
    """
    with (
        open_plain(part.file) as source,
        # zeros end an archive; another one may follow (`cat a.tar b.tar`), and the records of a
        # hole would be gone without a word
        tarfile.open(
            fileobj=source,
            mode="r|",
            tarinfo=Header,
            ignore_zeros=True,
            encoding="utf-8",
            errors="replace",
        ) as archive,
    ):
        for row, group in enumerate(_groups(archive)):
            try:
                yield row, _record(group)
            except (ValueError, RecursionError) as error:
                yield refuse(part.file, row, "bad_record", error)


def _groups(archive: tarfile.TarFile) -> Iterator[Group]:
    group = Group("")
    while (member := archive.next()) is not None:
        vars(archive)["members"].clear()  # else every header stays in memory
        folder, base = posixpath.split(member.name)
        stem, _, ending = base.partition(".")
        if not member.isreg() or not stem:  # folders, links and hidden files
            continue
        key = posixpath.join(folder, stem)
        if key != group.key:
            if group.key:
                yield group
            group = Group(key)
        _add(archive, member, group, ending.lower())
    if group.key:
        yield group


def _add(archive: tarfile.TarFile, member: tarfile.TarInfo, group: Group, ending: str) -> None:
    group.size += member.size
    if ending in group.entries:
        group.problem = f"two entries .{ending}"
    elif group.size > MAX_RECORD or member.issparse():
        group.problem = f"entries of more than {MAX_RECORD >> 20} MB"
    elif (content := archive.extractfile(member)) is not None:
        group.entries[ending] = content.read()


def _record(group: Group) -> Record:
    if group.problem:
        raise ValueError(group.problem)
    record: Record = {"__key__": group.key}
    images = []
    for ending, data in group.entries.items():
        kind = ending.rpartition(".")[2]
        if kind == "json":
            record |= parse_object(data)
        elif kind in TEXTS:
            record[ending] = data.decode("utf-8")
        else:
            record[ending] = data
        if kind in IMAGES:
            images.append({"bytes": data, "path": f"{group.key}.{ending}"})
    return record | {"images": images} if images else record
