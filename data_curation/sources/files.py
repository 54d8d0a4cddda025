"""The files of a source: on this machine, in S3 or in Google's storage, listed in one order and
opened the same way.

Everything goes through pyarrow's filesystems, so that a bucket needs no further library. A file is
named by its path relative to the source's root in all references: a source that is moved as a whole
keeps them.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from bimode.errors import ConfigError, StorageError
from bimode.inputs.pictures import MAX_BYTES
from bimode.storage.uri_secrets import without_secrets

ReadImage = Callable[[str], bytes]  # path as a record gives it -> the encoded image

KEY = "curate.sources.path"
ENDINGS = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz"),
    "hf": (".arrow",),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
}
METADATA = (
    "metadata.jsonl",
    "metadata.csv",
)  # names the images beside it, as in Hugging Face's ImageFolder
BOOKKEEPING = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)  # of `datasets`, no rows
MAGIC = re.compile(r"[*\[]")
BLOCK = 1 << 20  # bytes
GOOGLE, GOOGLE_TRIES_S = (
    ("gs://", "gcs://"),
    30,
)  # pyarrow's own limit is a quarter of an hour, without a word


@dataclass(frozen=True, slots=True)
class SourceFile:
    """E.g. ``SourceFile("s3://bucket/vqa/train/0.parquet", "train/0.parquet", 81234,
    1764000000000000000)`` of `s3://bucket/vqa`.
    """

    uri: str  # where it is: an absolute path or a URI
    name: str  # relative to the source's root
    size: int  # bytes
    modified_ns: int  # Unix time; 0 where the storage does not say


def reader_of(name: str) -> str:
    """The reader of a file called `name`; "" for one that no reader reads."""
    base = posixpath.basename(name)
    if base in METADATA:
        return "images"
    if base in BOOKKEEPING or fnmatchcase(
        base, "cache-*.arrow"
    ):  # `datasets` caches what `map` made beside the data
        return ""
    return next(
        (reader for reader, endings in ENDINGS.items() if base.lower().endswith(endings)), ""
    )


def list_files(path: str, reader: str, follow_links: bool = False) -> list[SourceFile]:
    """The files that `path` stands for, by name: itself, or what `reader` ("auto": one of them all)
    reads of a folder or pattern.

    A path without a scheme is seen from the current directory. Hidden files are left out. `path`
    may be a link itself; one below it is followed only with `follow_links`, and then every file is
    listed once. Raises ConfigError where there is nothing, where it cannot be reached, where a link
    is not followed, and where `auto` finds files of more than one kind.
    """
    try:
        files, links, is_file = _listing(path, follow_links)
    except (OSError, ValueError, pa.ArrowException) as error:
        known = (
            "; write s3://, gs:// or a path of this machine"
            if "Unrecognized filesystem" in str(error)
            else ""
        )
        raise ConfigError(
            KEY, public(path), f"cannot be reached: {_first_line(error)}{known}"
        ) from None
    if is_file and (reader != "auto" or reader_of(files[0].name)):
        return files
    readers = [*ENDINGS, "images"] if reader == "auto" else [reader]
    if linked := [name for name in links if name.endswith("/") or _reads(readers, name)]:
        fix = (
            f"{linked[0]} in it is a link; set follow_links = true if it leads where you want, or"
            " take it out"
        )
        raise ConfigError(KEY, public(path), fix)
    kinds = sorted({reader_of(file.name) for file in files} - {""})
    if reader == "auto" and len(kinds) > 1:
        raise ConfigError(
            KEY,
            public(path),
            f"holds files for several readers; set `reader` to one of {', '.join(kinds)}",
        )
    found = [file for file in files if _reads(kinds if reader == "auto" else [reader], file.name)]
    if not found:
        seen = "" if "://" in path or Path(path).is_absolute() else f", seen from {Path.cwd()}"
        other = (
            f"; {len(files)} file(s) of another name: set `reader`"
            if files
            else "; no such file or folder, or an empty one"
        )
        other += seen
        raise ConfigError(KEY, public(path), f"nothing there for {_readers(reader)}{other}")
    return sorted(found, key=lambda file: file.name)


class RemoteFile(io.RawIOBase):
    """A file in a bucket. A bucket that does not answer is a StorageError: to a reader, an OSError
    would be a damaged file.
    """

    def __init__(self, file: pa.NativeFile, uri: str) -> None:
        self.file, self.uri = file, uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with answering(self.uri):
            return int(self.file.readinto(buffer))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with answering(self.uri):
            return int(self.file.seek(offset, whence))

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Errors of the block are a StorageError, but for a missing file. pyarrow has tried several
    times before it raises.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{public(uri)} does not answer: {_first_line(error)}") from None


def public(text: str) -> str:
    """Returns a URI, or a message with one, without its credentials."""
    return re.sub(r"\S+", lambda word: without_secrets(word[0]).replace("***@", ""), text)


def is_remote(uri: str) -> bool:
    """Whether a network stands between."""
    return "://" in uri


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Where a path or a URI is, and its path there. Raises OSError, ValueError or
    pa.ArrowException.
    """
    if uri.startswith(GOOGLE) and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLE_TRIES_S}"
    return fs.FileSystem.from_uri(uri)


def open_file(file: SourceFile) -> BinaryIO:
    """`file` for reading, with random access. Raises OSError, ValueError or pa.ArrowException; of a
    bucket also StorageError.
    """
    where, path = filesystem(file.uri)
    if not is_remote(file.uri):
        return cast(BinaryIO, where.open_input_file(path))
    with answering(file.uri):
        return cast(BinaryIO, RemoteFile(where.open_input_file(path), file.uri))


def content_digest(file: SourceFile) -> str:
    """Return the blake2b digest (16 bytes, hex) of a file's content. Raises ConfigError if the file
    cannot be read.
    """
    hasher = hashlib.blake2b(digest_size=16)
    try:
        with open_file(file) as source:
            while block := source.read(BLOCK):
                hasher.update(block)
    except (OSError, ValueError, pa.ArrowException, StorageError) as error:
        raise ConfigError(KEY, public(file.uri), f"cannot be read: {_first_line(error)}") from None
    return hasher.hexdigest()


def image_reader(file: SourceFile, follow_links: bool = False) -> ReadImage:
    """Reads the images that records of `file` name, by paths relative to its folder; links lead out
    of it with `follow_links`.

    The function raises FileNotFoundError where there is no such file, another OSError where it
    cannot be read (of a bucket: StorageError), and ValueError for a path that leaves the source's
    root or points into the network. Of what is larger than an image may be it returns only as much
    as validation needs to see that.
    """
    where, path = filesystem(file.uri)
    root, folder = path.removesuffix(file.name), posixpath.dirname(path)
    real_root = posixpath.join(os.path.realpath(root), "")
    is_bound = isinstance(where, fs.LocalFileSystem) and not follow_links

    def read(name: str) -> bytes:
        full = posixpath.normpath(posixpath.join(folder, name))
        if "://" in name or not full.startswith(root):
            raise ValueError("leaves the source's folder")
        try:
            with answering(file.uri) if is_remote(file.uri) else nullcontext():
                if (
                    where.get_file_info(full).type != fs.FileType.File
                ):  # a pipe would block for ever
                    raise FileNotFoundError(full)
                if is_bound and not os.path.realpath(full).startswith(real_root):
                    raise ValueError("leaves the source's folder by a link")
                with where.open_input_file(full) as image:
                    return cast(bytes, image.read(MAX_BYTES + 1))
        except pa.ArrowException as error:
            raise OSError(_first_line(error)) from None

    return read


def _listing(path: str, follow: bool) -> tuple[list[SourceFile], list[str], bool]:
    """The files below `path` that fit its pattern, the links that are not followed, and whether it
    is one file itself.

    The name of a link to a folder ends in a slash.
    """
    scheme, _, _ = path.rpartition("://")
    base, _, query = path.partition("?") if scheme else (os.path.abspath(path), "", "")
    query = f"?{query}" if query else ""
    if (match := MAGIC.search(base)) and (scheme or not os.path.lexists(base)):
        cut = base.rfind("/", 0, match.start())
        base, pattern = base[:cut], base[cut + 1 :].split("/")
    else:
        base, pattern = base.rstrip("/"), ["**"]
    where, root = filesystem((base or "/") + query)
    info = where.get_file_info(root)
    if info.type == fs.FileType.File:
        name = posixpath.basename(root)
        return [SourceFile(base + query, name, info.size, info.mtime_ns or 0)], [], True
    if info.type == fs.FileType.NotFound:
        return [], [], False
    files, links = [], []
    is_deep = len(pattern) > 1 or "**" in pattern
    walk = (
        _local_files(root, is_deep, follow)
        if isinstance(where, fs.LocalFileSystem)
        else _bucket_files(where, root, is_deep)
    )
    for name, size, modified_ns in walk:
        parts = name.split("/")
        if any(part.startswith(".") for part in parts) or not (
            name.endswith("/") or _fits(parts, pattern)
        ):
            continue
        if size is None:
            links.append(name)
        else:
            files.append(
                SourceFile(
                    f"{base}/{quote(name) if scheme else name}{query}", name, size, modified_ns
                )
            )
    return files, links, False


Found = tuple[str, int | None, int]  # name below the root, bytes or None for a link, time of change


def _bucket_files(where: fs.FileSystem, root: str, is_deep: bool) -> Iterator[Found]:
    prefix = root.rstrip("/") + "/"
    for info in where.get_file_info(fs.FileSelector(root, recursive=is_deep)):
        if info.type == fs.FileType.File:
            yield info.path.removeprefix(prefix), info.size, info.mtime_ns or 0


def _local_files(root: str, is_deep: bool, follow: bool) -> Iterator[Found]:
    """The files below `root`, and the links; with `follow`, what these lead to, each file and
    folder once.
    """
    seen = {os.path.realpath(root)}
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name):
            name, is_folder = posixpath.join(folder, entry.name), entry.is_dir()
            real = os.path.realpath(entry.path) if follow else entry.path
            if entry.name.startswith(".") or real in seen or (is_folder and not is_deep):
                continue
            seen.add(real)
            if entry.is_symlink() and not follow:
                yield (f"{name}/" if is_folder else name), None, 0
            elif is_folder:
                folders.append(name)
            elif entry.is_file():
                yield name, entry.stat().st_size, entry.stat().st_mtime_ns


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path fits a pattern, part by part; ``**`` stands for any number of folders, at the
    end for all below.
    """
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] != "**":
        return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
    return pattern == ["**"] or _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)


def _reads(readers: list[str], name: str) -> bool:
    """`metadata.jsonl` belongs to reader `images`; the JSON reader takes it when it is named."""
    return reader_of(name) in readers or (readers == ["jsonl"] and name.endswith(METADATA[0]))


def _readers(reader: str) -> str:
    if reader == "auto":
        return "any reader"
    return f"reader {reader} ({', '.join(METADATA if reader == 'images' else ENDINGS[reader])})"


def _first_line(error: BaseException) -> str:
    return public(next(iter(str(error).splitlines()), type(error).__name__))
