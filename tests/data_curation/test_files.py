"""Files of a source: one order, one way to open them, and every mistake in the path said in one
line.
"""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from bimode.errors import ConfigError
from bimode.inputs.pictures import MAX_BYTES
from data_curation.sources.files import (
    SourceFile,
    content_digest,
    filesystem,
    image_reader,
    list_files,
    open_file,
)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def names(path: object, reader: str = "auto") -> list[str]:
    return [file.name for file in list_files(str(path), reader)]


def test_a_folder_gives_its_files_by_name_and_leaves_out_hidden_ones(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "b/2.jsonl",
        "b/10.jsonl",
        "a.jsonl.gz",
        "Z.json",
        ".x.jsonl",
        ".git/1.jsonl",
        "b/.c/1.jsonl",
        "README.md",
    )
    assert (
        names(tmp_path)
        == names(f"{tmp_path}/")
        == ["Z.json", "a.jsonl.gz", "b/10.jsonl", "b/2.jsonl"]
    )
    first = list_files(str(tmp_path), "auto")[0]
    stat = (tmp_path / "Z.json").stat()
    assert first == SourceFile(str(tmp_path / "Z.json"), "Z.json", 6, stat.st_mtime_ns)


def test_a_file_is_its_own_source_and_is_named_without_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, "deep/a.parquet", "deep/b.parquet", "deep/rows.txt")
    assert names(tmp_path / "deep/a.parquet") == ["a.parquet"]
    assert names(tmp_path / "deep/rows.txt", "jsonl") == ["rows.txt"]


def test_a_relative_path_is_seen_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "in/a.parquet")
    monkeypatch.chdir(tmp_path)
    (file,) = list_files("in", "auto")
    assert file.uri == str(tmp_path / "in/a.parquet")


def test_patterns_stop_at_folders_and_two_stars_do_not(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "t-0.parquet",
        "t-1.parquet",
        "u.parquet",
        "x/t-2.parquet",
        "x/y/t-3.parquet",
        "odd[1]/a.parquet",
    )
    assert names(tmp_path / "t-*.parquet") == ["t-0.parquet", "t-1.parquet"]
    assert names(tmp_path / "t-[1-9].parquet") == ["t-1.parquet"]
    assert names(tmp_path / "*/t-*.parquet") == ["x/t-2.parquet"]
    assert names(tmp_path / "**/t-*.parquet") == [
        "t-0.parquet",
        "t-1.parquet",
        "x/t-2.parquet",
        "x/y/t-3.parquet",
    ]
    assert names(tmp_path / "x/**") == ["t-2.parquet", "y/t-3.parquet"]
    assert names(tmp_path / "odd[1]") == ["a.parquet"], "a folder that exists is no pattern"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["a.parquet", "LICENSE"], ["a.parquet"]),
        (
            [
                "train/data-00000-of-00001.arrow",
                "train/state.json",
                "train/dataset_info.json",
                "dataset_dict.json",
                "train/cache-1.arrow",
            ],
            ["train/data-00000-of-00001.arrow"],
        ),
        (["s-0.tar", "s-1.tar.gz", "s-2.tgz"], ["s-0.tar", "s-1.tar.gz", "s-2.tgz"]),
        (
            ["metadata.csv", "1.png", "sub/metadata.jsonl", "sub/2.png"],
            ["metadata.csv", "sub/metadata.jsonl"],
        ),
        (["vqa.json", "images/1.png"], ["vqa.json"]),
        (["cache-0.parquet"], ["cache-0.parquet"]),
    ],
)
def test_auto_goes_by_names(tmp_path: Path, there: list[str], expected: list[str]) -> None:
    assert names(fill(tmp_path, *there)) == expected


def test_mixed_kinds_ask_for_a_reader_and_a_reader_takes_its_own(tmp_path: Path) -> None:
    fill(tmp_path, "a.parquet", "b.jsonl", "metadata.jsonl", "c.arrow")
    with pytest.raises(ConfigError, match="set `reader` to one of hf, images, jsonl, parquet"):
        list_files(str(tmp_path), "auto")
    assert names(tmp_path, "parquet") == ["a.parquet"]
    assert names(tmp_path, "jsonl") == ["b.jsonl", "metadata.jsonl"]
    assert names(tmp_path, "images") == ["metadata.jsonl"]


def test_a_path_without_rows_is_said_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, "notes.txt", "only/.hidden.jsonl")
    for path, reader, said in (
        (tmp_path / "none", "auto", "nothing there for any reader"),
        (tmp_path / "only", "auto", "nothing there for any reader"),
        (tmp_path / "*.parquet", "auto", "nothing there for any reader"),
        ("none", "auto", f"or an empty one, seen from {Path.cwd()}$"),
        (
            tmp_path,
            "webdataset",
            r"nothing there for reader webdataset \(.tar, .tar.gz, .tgz\); 1 file",
        ),
        (tmp_path / "notes.txt", "auto", "1 file.s. of another name: set `reader`"),
        (
            "s4://key:secret@bucket/x",
            "auto",
            (
                "s4://bucket/x: cannot be reached: Unrecognized filesystem type.*; write s3://,"
                " gs:// or a path"
            ),
        ),
        ("file://elsewhere/x", "auto", "cannot be reached"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            list_files(str(path), reader)
        assert "secret" not in str(caught.value)
        assert caught.value.key == "curate.sources.path" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("gs://anonymous@b/x", 30),
        ("gcs://anonymous@b/x?scheme=https", 30),
        ("gs://anonymous@b/x?retry_limit_seconds=7", 7),
    ],
)
def test_googles_storage_is_not_waited_for_a_quarter_of_an_hour(uri: str, seconds: int) -> None:
    where, path = filesystem(uri)
    assert path == "b/x" and where.__reduce__()[1][0]["retry_time_limit"] == timedelta(
        seconds=seconds
    )


def test_a_uri_gives_uris_that_open(tmp_path: Path) -> None:
    folder = fill(tmp_path / "we ird#%20", "a b?.jsonl", "sub/ü.jsonl")
    uri = f"file://{quote(str(folder))}"
    files = list_files(uri, "auto")
    assert [file.name for file in files] == ["a b?.jsonl", "sub/ü.jsonl"]
    for file in files:
        with open_file(file) as source:
            assert source.read().decode() == file.name
    assert [file.name for file in list_files(f"{uri}/*.jsonl", "auto")] == ["a b?.jsonl"]


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b.jsonl").write_bytes(b"x" * 3_000_000)
    one, two = (content_digest(file) for file in list_files(str(tmp_path), "auto"))
    assert one == two == hashlib.blake2b(b"x" * 3_000_000, digest_size=16).hexdigest()
    with pytest.raises(ConfigError, match="cannot be read"):
        content_digest(SourceFile(str(tmp_path / "gone"), "gone", 1, 0))


def test_images_are_found_beside_the_file_and_never_outside_the_source(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "secret.png",
        "source/a.jsonl",
        "source/sub/b.jsonl",
        "source/sub/1.png",
        "source/2.png",
        "source-2/3.png",
    )
    file = next(f for f in list_files(str(tmp_path / "source"), "auto") if f.name == "sub/b.jsonl")
    read = image_reader(file)
    assert read("1.png") == b"source/sub/1.png"
    assert read("../2.png") == read(f"{tmp_path}/source/2.png") == b"source/2.png"
    outside = (
        "../../secret.png",
        "/etc/passwd",
        f"{tmp_path}/secret.png",
        "../../source-2/3.png",
        "..",
    )
    for path in (*outside, "http://x/1.png", "\ud800"):
        with pytest.raises(ValueError):
            read(path)
    os.mkfifo(tmp_path / "source/sub/pipe.png")
    for path in ("", "none.png", "../sub", "pipe.png", "1.png/2.png", "x" * 5000, "a\0b"):
        with pytest.raises(OSError):
            read(path)


def test_a_folder_that_links_to_itself_is_refused_and_listed_once_when_followed(
    tmp_path: Path,
) -> None:
    """Two such links are 2^40 paths: listing them never ended."""
    folder = fill(tmp_path / "d", "x.jsonl")
    (folder / "a").symlink_to(".")
    (folder / "b").symlink_to(".")
    with pytest.raises(ConfigError, match="a/ in it is a link; set follow_links = true"):
        list_files(str(folder), "auto")
    assert [file.name for file in list_files(str(folder), "auto", follow_links=True)] == ["x.jsonl"]


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("out", "../other", "d"),
        ("out", "../other", "d/*/y.jsonl"),
        ("sub/out", "../../other", "d/**"),
        ("out.jsonl", "../other/y.jsonl", "d"),
        ("out.jsonl", "../other/y.jsonl", "d/*.jsonl"),
        ("metadata.csv", "../other/y.jsonl", "d"),
    ],
)
def test_what_is_linked_from_outside_is_read_only_if_the_recipe_says_so(
    tmp_path: Path, link: str, target: str, path: str
) -> None:
    fill(tmp_path, "d/sub/x.jsonl", "other/y.jsonl")
    (tmp_path / "d" / link).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{link}/? in it is a link"):
        list_files(str(tmp_path / path), "auto")
    followed = list_files(str(tmp_path / path), "jsonl", follow_links=True)
    found = [file for file in followed if file.name.startswith(link)]
    assert [Path(file.uri).read_bytes() for file in found] == [b"other/y.jsonl"] * (
        link != "metadata.csv"
    )


def test_links_that_no_reader_would_read_and_one_that_the_user_names_are_no_mistake(
    tmp_path: Path,
) -> None:
    folder = fill(tmp_path, "real/x.jsonl", "real/sub/2.jsonl", "notes.md") / "real"
    (folder / "README.md").symlink_to("../notes.md")
    (folder / ".hidden").symlink_to("..")
    (folder / "gone.png").symlink_to("nowhere")
    (tmp_path / "mine").symlink_to("real")
    (tmp_path / "one.jsonl").symlink_to("real/x.jsonl")
    assert names(tmp_path / "mine") == ["sub/2.jsonl", "x.jsonl"]
    assert names(tmp_path / "one.jsonl") == ["one.jsonl"]
    (folder / "more").symlink_to("..")
    assert names(folder / "*.jsonl") == ["x.jsonl"]  # which looks into no folder


def test_images_behind_a_link_are_read_only_if_the_recipe_says_so(tmp_path: Path) -> None:
    fill(tmp_path, "secret.png", "outside/1.png", "real/a.jsonl", "real/1.png")
    source = tmp_path / "source"
    source.symlink_to("real")
    (source / "secret.png").symlink_to("../secret.png")
    (source / "images").symlink_to("../outside")
    (source / "same.png").symlink_to("1.png")
    (file,) = list_files(str(source / "a.jsonl"), "auto")
    read, followed = image_reader(file), image_reader(file, follow_links=True)
    assert read("1.png") == read("same.png") == b"real/1.png"
    for name, content in (("secret.png", b"secret.png"), ("images/1.png", b"outside/1.png")):
        with pytest.raises(ValueError, match="by a link"):
            read(name)
        assert followed(name) == content


def test_of_a_huge_image_only_as_much_is_read_as_shows_that_it_is(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl")
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(1 << 32)
    assert len(image_reader(list_files(str(tmp_path), "auto")[0])("huge.png")) == MAX_BYTES + 1
