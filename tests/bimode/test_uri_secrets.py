"""No credential of a recipe or a flag reaches a file, a log or a line: it is refused, and hidden in
the refusal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bimode.config.curate import SourceConfig
from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from bimode.storage.run_dir import FORMAT
from bimode.storage.uri_secrets import without_secrets
from cluster.checks import check_address
from cluster.submit import dashboard
from data_curation.sources.files import public
from pipelines.__main__ import exit_code
from pipelines.saved_recipe import load

HELD = "PLANTED"  # part of every secret below
SECRETS = [
    f"s3://AKIA:{HELD}@bucket/a.parquet",
    f"s3://AKIA:se/{HELD}/x@bucket/a.parquet",  # a slash, with which AWS's own keys are written
    f"s3://AKIA:12/{HELD}@bucket/a.parquet",
    f"s3://AKIA:{HELD}@{HELD}@bucket/a",
    f"s3://AKIA:{HELD}?{HELD}#{HELD}@bucket/a",
    f"s3://AKIA:se {HELD}@bucket/a",
    f"S3://AKIA:{HELD}@bucket/a",
    f"https://ghp_{HELD}@host/data.parquet",
    f"https://user:{HELD}@host:8443/x?y=1",
    f"abfs://box:{HELD}@account.dfs.core.windows.net/x",
    f"hdfs://user:{HELD}@namenode:8020/x",
    f"s3://bucket/a?secret_key={HELD}",
    f"s3://bucket/a?region=eu&access_key={HELD}&scheme=http",
    f"s3://bucket/a?secret%5Fkey={HELD}",
    f"gs://bucket/a?token={HELD}",
    f"s3://bucket/a?session_token={HELD}",
    f"https://host/a?X-Amz-Signature={HELD}",
    f"https://host/a?X-Amz-Credential={HELD}&X-Amz-Date=2026",
    f"https://host/a?X-Amz-Security-Token={HELD}",
    f"https://host/a?X-Goog-Signature={HELD}",
    f"https://box.blob.core.windows.net/a?sv=2022&sig={HELD}",
    f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={HELD}==;EndpointSuffix=y",
    f"https://host/a#access_token={HELD}",
    f"data/a.parquet?password={HELD}",
]
PLAIN = [
    "s3://bucket/set?region=eu-west-1&endpoint_override=localhost:9000&scheme=http",
    "gs://anonymous@bucket/set",
    "gs://bucket/set?retry_limit_seconds=3",
    "s3://bucket/folder@v1/a.parquet",
    "abfs://box@account.dfs.core.windows.net/x",
    "hdfs://user@namenode:8020/x",
    "http://head:8265/path@x",
    "http://[::1]:8265/path@x",
    "file:///data/a@b/c:d.parquet",
    "/data/a@b:c/x-*.parquet",
    "what is 3 + 4 ? max_tokens=5",
    "https://host/a?max_tokens=5&monkey=1&design=x",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_credential_is_refused_with_the_key_and_without_the_secret(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a source, an override, and a flag: the recipe stood in manifests that all could read."""
    sources = [{"family": "digits"}, {"path": uri, "layout": "chat"}]
    with pytest.raises(ConfigError, match=r"^curate\.sources\.1\.path = .*\*\*\*") as told:
        Recipe.of({"name": "t", "curate": {"sources": sources}})
    assert HELD not in str(told.value) and "AWS_*" in told.value.fix
    with pytest.raises(ConfigError, match=r"^curate\.dedup\.against\.0 = ") as told:
        Recipe.of({"name": "t"}, (f"curate.dedup.against={json.dumps([uri])}",))
    assert HELD not in str(told.value)
    for words in (
        ["run", "pipelines/recipes/tiny.toml", "--out", uri],
        ["run", "x.toml", f"--set=curate.sources.0.path={uri}"],
        ["curate", "x.toml", "--out", "x", "--set", f"no_key_{uri}"],
        ["serve", "--model", uri],
    ):
        assert exit_code(words) == 2
    said = capsys.readouterr()
    assert HELD not in said.out + said.err and said.err.count("error: ") == 4
    assert "error: --out = " in said.err and "error: --model = " in said.err
    assert HELD not in public(f"{uri} does not answer") or " " in uri


@pytest.mark.parametrize("uri", PLAIN)
def test_what_holds_no_credential_is_left_alone(uri: str) -> None:
    assert without_secrets(uri) == uri
    source = {"path": uri, "layout": "chat"}
    recipe = Recipe.of({"name": "t", "curate": {"sources": [source]}})
    assert recipe.curate.sources[0].path == uri


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"model": {"base": SECRETS[0]}}, "model.base"),
        ({"model": {"bas": SECRETS[0]}}, "model.bas"),
        ({SECRETS[0]: 1}, r"s3://\*\*\*@bucket/a\.parquet"),
        ({"curate": {"sources": {"path": SECRETS[0]}}}, "curate.sources.path"),
        (
            {"curate": {"sources": [{"path": "x", "columns": {"question": SECRETS[0]}}]}},
            "curate.sources.0.columns.question",
        ),
        ({"curate": SECRETS[0]}, "curate"),
    ],
)
def test_also_where_the_recipe_is_wrong_otherwise(table: dict[str, Any], key: str) -> None:
    """A misspelled key, a wrong type: the refusal of those shows the value."""
    with pytest.raises(ConfigError, match=f"^{key} = ") as told:
        Recipe.of({"name": "t", **table})
    assert HELD not in str(told.value)


def test_a_section_alone_shows_no_value_of_another_kind() -> None:
    """pydantic prints what it was given."""
    with pytest.raises(ValidationError) as told:
        SourceConfig.model_validate({"path": SECRETS[0], "layout": "chat"})
    assert HELD not in str(told.value) and HELD not in repr(told.value)
    with pytest.raises(ValidationError) as told:
        SourceConfig.model_validate({"path": HELD, "layout": 3})
    assert HELD not in str(told.value)


def test_a_run_that_was_made_with_one_is_refused_too(tmp_path: Path) -> None:
    """Its manifest holds the recipe of a version that let it pass."""
    source = {"path": SECRETS[0], "layout": "chat"}
    manifest = {"format": FORMAT, "recipe": {"name": "t", "curate": {"sources": [source]}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ConfigError, match=r"^curate\.sources\.0\.path = s3://\*\*\*@bucket"
    ) as told:
        load(tmp_path, (), None)
    assert HELD not in str(told.value)


def test_an_address_of_the_environment_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job's address is printed, and stands in the line that says how to follow it."""
    url = f"http://user:{HELD}@head:8265"
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", url)
    for ask in (lambda: dashboard(""), lambda: check_address(url)):
        with pytest.raises(ConfigError, match=r"^RAY_ADDRESS = http://\*\*\*@head:8265: ") as told:
            ask()
        assert HELD not in str(told.value)
    assert dashboard("http://head:8265") == "http://head:8265"
