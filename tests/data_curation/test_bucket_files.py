"""Files of a bucket, listed and read as a folder's are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.errors import ConfigError, StorageError
from data_curation.sources.files import (
    RemoteFile,
    SourceFile,
    content_digest,
    image_reader,
    list_files,
    open_file,
)
from data_curation.sources.readers import FilePart, read_records, split_file
from data_curation.sources.refusal import Refusal

OBJECTS = {
    "vqa/0.jsonl": b"zero",
    "vqa/img/a b.png": b"PNG",
    "vqa/sub/1.jsonl": b"one",
    "vqa/.hidden/2.jsonl": b"",
    "other.png": b"",
}


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as reading needs: ListObjectsV2, HeadObject and GetObject with a range, for any
    bucket.
    """

    protocol_version = "HTTP/1.1"
    down = ""  # the key for which it has no answer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query, key = parse_qs(url.query), unquote(url.path).strip("/").partition("/")[2]
        if "list-type" in query:
            found = [k for k in sorted(OBJECTS) if k.startswith(query["prefix"][0])]
            date = "<LastModified>2026-01-02T03:04:05.000Z</LastModified>"
            entries = "".join(
                f"<Contents><Key>{k}</Key><Size>{len(OBJECTS[k])}</Size>{date}</Contents>"
                for k in found
            )
            return self.answer(
                200,
                f"<ListBucketResult><KeyCount>{len(found)}</KeyCount>{entries}</ListBucketResult>".encode(),
            )
        if self.down and key == self.down:
            return self.answer(
                403, b""
            )  # an error that is not tried again, so that the test need not wait
        if key not in OBJECTS:
            return self.answer(404, b"")
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        return self.answer(206 if "Range" in self.headers else 200, OBJECTS[key][start:])

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def query() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=x"
    server.shutdown()
    server.server_close()


def test_a_bucket_is_listed_and_read_like_a_folder(query: str) -> None:
    root = "s3://key:secret@bucket/vqa"
    zero, one = list_files(root + query, "auto")
    assert zero == SourceFile(f"{root}/0.jsonl{query}", "0.jsonl", 4, 1767323045_000000000)
    assert list_files(f"{root}/*.jsonl{query}", "auto") == [zero]
    assert list_files(f"{root}/**/*.jsonl{query}", "auto") == [zero, one]
    assert list_files(f"{root}/0.jsonl{query}", "auto") == [zero]
    with open_file(one) as source:
        assert source.read() == b"one"
    assert content_digest(zero) == hashlib.blake2b(b"zero", digest_size=16).hexdigest()
    read = image_reader(one)
    assert read("../img/a b.png") == b"PNG"
    with pytest.raises(ValueError):
        read("../../other.png")
    with pytest.raises(OSError):
        read("../img/none.png")
    with pytest.raises(ConfigError, match="nothing there"):
        list_files(f"{root}-2{query}", "auto")


def test_a_bucket_that_does_not_answer_refuses_no_row(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the storage that failed: a file or a picture that is there may not become a reject,
    which would be kept.
    """
    root = "s3://key:secret@bucket/vqa"
    zero = list_files(f"{root}/*.jsonl{query}", "auto")[0]
    read = image_reader(zero)
    for reader in ("jsonl", "parquet", "webdataset", "hf"):
        assert [type(record) for _, record in read_records(FilePart(zero, reader, 0, None))] == [
            Refusal
        ], "no JSON, no Parquet"
    monkeypatch.setattr(Bucket, "down", "vqa/0.jsonl")
    for reader in ("jsonl", "parquet", "webdataset", "hf"):
        with pytest.raises(
            StorageError, match=r"^s3://bucket/vqa/0\.jsonl.* does not answer: "
        ) as told:
            list(read_records(FilePart(zero, reader, 0, None)))
    assert "secret" not in str(told.value)
    with pytest.raises(StorageError):
        split_file(zero, "parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        content_digest(zero)
    monkeypatch.setattr(Bucket, "down", "vqa/img/a b.png")
    with pytest.raises(StorageError):
        read("img/a b.png")


def test_a_read_that_fails_half_way_is_the_buckets_fault(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "t.parquet")

    class Breaking(pa.PythonFile):  # type: ignore[misc]
        def readinto(self, buffer: object) -> int:
            raise OSError("connection reset")

    whole = RemoteFile(pa.OSFile(str(tmp_path / "t.parquet")), "s3://bucket/t.parquet")
    assert pq.ParquetFile(whole, buffer_size=1 << 10).read()["a"].to_pylist() == list(range(1000))
    opened = RemoteFile(
        Breaking((tmp_path / "t.parquet").open("rb"), mode="r"), "s3://bucket/t.parquet"
    )
    with pytest.raises(StorageError, match="connection reset"):
        pq.ParquetFile(opened).read()
