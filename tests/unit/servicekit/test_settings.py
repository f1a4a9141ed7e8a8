"""Settings: every fault at once, no value repeated, exit code 2."""

import io
from typing import Annotated

import pytest
from pydantic import Field, SecretStr

from servicekit.settings import EXIT_CODE, CommonSettings, DatabaseUrl, HttpUrl, Port, RedisUrl, load


class Settings(CommonSettings):
    database_url: Annotated[DatabaseUrl, Field(validation_alias="THING_DATABASE_URL")]
    secret: Annotated[SecretStr, Field(validation_alias="THING_SECRET")]
    identity_url: Annotated[HttpUrl, Field(validation_alias="THING_IDENTITY_URL")] = "http://localhost:8001"
    redis_url: Annotated[RedisUrl, Field(validation_alias="THING_REDIS_URL")] = SecretStr("redis://localhost")
    port: Annotated[Port, Field(validation_alias="THING_PORT")] = 8002


def _faults(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        load(Settings, out=out)
    assert ended.value.code == EXIT_CODE == 2
    return out.getvalue().splitlines()


def test_all_faults_are_told_at_once_and_no_value_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _faults(
        monkeypatch,
        THING_DATABASE_URL="mysql://root:hunter2@db/x",
        THING_SECRET="",
        THING_IDENTITY_URL="http://localhost:8001/",
        THING_REDIS_URL="hunter2",
        THING_PORT="hunter2",
        RESCIND_LOG_LEVEL="LOUD",
    )
    assert told == [
        "RESCIND_LOG_LEVEL: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
        "THING_DATABASE_URL: must begin with sqlite:/// or postgresql://",
        "THING_IDENTITY_URL: must not end with a slash",
        "THING_PORT: Input should be a valid integer, unable to parse string as an integer",
        "THING_REDIS_URL: must begin with redis://, rediss:// or unix://",
        "THING_SECRET is set to nothing",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/3@redis:6379/0",
        "redis://:hunter2#3@redis:6379/0",
        "redis://redis:hunter2/0",
        "redis://redis:99999/0",
        "redis://[::1",
        "redis://redis/0?hunter2=1",
        "redis://redis/0?socket_timeout=hunter2",
    ],
)
def test_a_url_that_is_of_no_redis_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    (told,) = _faults(monkeypatch, THING_DATABASE_URL="sqlite:///x.db", THING_SECRET="x", THING_REDIS_URL=url)
    assert told.startswith("THING_REDIS_URL: not a URL of a Redis")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url",
    ["http://localhost:hunter2", "http://:8001", "http://[::1", "http://ho st", "http://u:hunter2@h", "https://h?x=1"],
)
def test_a_url_that_leads_nowhere_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    (told,) = _faults(monkeypatch, THING_DATABASE_URL="sqlite:///x.db", THING_SECRET="x", THING_IDENTITY_URL=url)
    assert told == "THING_IDENTITY_URL: must be http[s]://host[:port][/path]"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql://u:p@db:hunter2/x", "not a database URL"),
        ("postgresql://[::1/x", "not a database URL"),
        ("sqlite:///", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
    ],
)
def test_a_url_that_is_of_no_database_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, fault: str
) -> None:
    (told,) = _faults(monkeypatch, THING_DATABASE_URL=url, THING_SECRET="x")
    assert told.startswith(f"THING_DATABASE_URL: {fault}")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url",
    ["redis://redis", "rediss://u:p%2F@redis:1/3", "unix:///run/redis.sock?db=1", "redis://[::1]:6379/0", "redis://"],
)
def test_urls_that_name_a_redis_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("THING_DATABASE_URL", "postgresql+psycopg://u:p%2F@[::1]:5432/x")
    monkeypatch.setenv("THING_SECRET", "x")
    monkeypatch.setenv("THING_REDIS_URL", url)
    assert load(Settings).redis_url.get_secret_value() == url


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _faults(monkeypatch) == ["THING_DATABASE_URL is not set", "THING_SECRET is not set"]


def test_good_settings_load_and_hide_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_DATABASE_URL", "postgresql://u:hunter2@db/x")
    monkeypatch.setenv("THING_SECRET", "hunter2")
    monkeypatch.setenv("THING_PORT", "")
    settings = load(Settings)
    assert settings.port == 8002
    assert settings.secret.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)


def test_a_file_in_the_working_folder_decides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open(".env", "w") as file:  # noqa: PTH123
        file.write("THING_DATABASE_URL=sqlite:///x.db\nTHING_SECRET=x\n")
    assert len(_faults(monkeypatch)) == 2
