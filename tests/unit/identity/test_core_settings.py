"""Settings, ids, scopes, seeds, commands: the small parts."""

import base64
import io
import json
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import ValidationError
from sqlalchemy import select

from identity import commands
from identity.domain import IDENTITY_AUDIENCE, new_id, scope_for, secret_digest
from identity.seeds import Seeds, sow
from identity.settings import Settings
from identity.storage import clients, metadata, users
from servicekit.database import Database
from servicekit.migrations import migrate
from servicekit.settings import parse_secret_keys
from support.identity_core import core, settings

SHORT = base64.b64encode(b"x" * 16).decode()
KEY = base64.b64encode(b"x" * 32).decode()


def test_secret_keys_are_a_list_newest_first() -> None:
    assert parse_secret_keys(f"b:{KEY}, a:{KEY}") == (("b", b"x" * 32), ("a", b"x" * 32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY,
        "a:",
        "a:!!!",
        f"a:{KEY[:-8]}",
        f"a:{KEY},a:{KEY}",
        f":{KEY}",
        "a:" + base64.b64encode(b"x" * 16).decode(),
    ],
)
def test_a_wrong_secret_key_is_a_fault_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(ValueError, match="key") as fault:
        parse_secret_keys(text)
    assert KEY[:-8] not in str(fault.value)


def test_every_missing_setting_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_DATABASE_URL", "IDENTITY_SECRET_KEYS", "RESCIND_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValidationError) as faults:
        Settings()
    missing = {str(fault["loc"][0]) for fault in faults.value.errors()}
    assert missing == {"IDENTITY_DATABASE_URL", "IDENTITY_SECRET_KEYS", "RESCIND_REDIS_URL"}


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    ("asked", "audience", "roles", "granted"),
    [
        ("openid orders:read", "urn:rescind:orders", (), "orders:read"),
        ("openid orders:read", IDENTITY_AUDIENCE, (), "openid"),
        ("orders:admin identity:admin", "urn:rescind:orders", (), ""),
        ("orders:admin identity:admin", "urn:rescind:orders", ("admin",), "orders:admin"),
        ("orders:write orders:read", "urn:rescind:orders", (), "orders:read orders:write"),
        ("invented", "urn:rescind:orders", ("admin",), ""),
        ("orders:read", "urn:rescind:nowhere", ("admin",), ""),
    ],
)
def test_a_scope_counts_where_it_means_something(
    asked: str, audience: str, roles: tuple[str, ...], granted: str
) -> None:
    assert scope_for(asked.split(), audience=audience, roles=roles) == granted


def test_ids_carry_their_kind_and_128_bits() -> None:
    assert new_id("sid", lambda n: b"\xff" * n) == "sid_" + "_" * 21 + "w"
    assert new_id("", lambda n: b"\x00" * n) == "A" * 22


def test_the_migrations_lead_to_the_tables_the_code_uses(database_url: str) -> None:
    migrate(database_url, "identity")
    migrate(database_url, "identity")
    database = Database(database_url)
    try:
        with database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    finally:
        database.engine.dispose()


async def test_seeding_twice_changes_nothing(tmp_path: Path) -> None:
    document = {
        "users": [{"email": "Carol@Example.com", "name": "Carol", "password": "a-good-passphrase", "roles": ["admin"]}],
        "clients": [{"id": "c", "name": "C", "secret": "c-secret", "scopes": ["openid"]}, {"id": "p", "name": "P"}],
    }
    seeds = Seeds.model_validate(document)
    async with core(f"sqlite:///{tmp_path}/identity.db", seeded=False) as identity:
        hashing = identity.parts.passwords.hash_blocking
        assert sow(identity.parts.accounts, seeds, hashing) == 3
        assert sow(identity.parts.accounts, seeds, hashing) == 0
        (user,) = identity.tx(lambda tx: tx.execute(select(users)).all())
        assert (user.email, user.roles, user.gen) == ("carol@example.com", ["admin"], 1)
        assert await identity.parts.passwords.verify(user.password_hash, "a-good-passphrase")
        stored = identity.tx(lambda tx: {row.id: row.secret_hash for row in tx.execute(select(clients))})
        assert stored == {"c": secret_digest("c-secret"), "p": None}


@pytest.mark.parametrize("document", ["not json", "{}x", '{"users": [{"email": "a"}]}', '{"clients": [{"idd": "a"}]}'])
def test_a_wrong_seed_file_is_one_line_and_changes_nothing(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(document))
    assert commands.run("seed", settings(f"sqlite:///{tmp_path}/identity.db")) == 1
    error = capsys.readouterr().err
    assert error.startswith("seed failed: ")
    assert error.count("\n") == 1


def test_the_operators_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings(f"sqlite:///{tmp_path}/identity.db")
    assert commands.run("migrate", values) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"clients": [{"id": "c", "name": "C"}]})))
    assert commands.run("seed", values) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 added"

    def log() -> tuple[str, int]:
        with sqlite3.connect(tmp_path / "identity.db") as connection:
            (row,) = connection.execute("SELECT log, epoch FROM log_state").fetchall()
        connection.close()
        return tuple(row)  # type: ignore[return-value]

    before = log()
    assert commands.run("new-log", values) == 0
    assert log()[0] != before[0]
    assert log()[1] == before[1] + 1
    assert before[0] in capsys.readouterr().out
    assert commands.run("reseal-keys", values) == 0
    assert capsys.readouterr().out == "0 keys sealed anew\n"
    for command in ("rotate-keys", "rotate-log-keys"):
        assert commands.run(command, values) == 0
        assert commands.run(command, values) == 1
        assert "rotate" in capsys.readouterr().err


def test_commands_are_parsed_and_none_means_serving() -> None:
    assert commands.parse([]) == "serve"
    assert commands.parse(["new-log"]) == "new-log"
    with pytest.raises(SystemExit):
        commands.parse(["unknown"])


def test_no_database_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    values = settings("postgresql://nobody@127.0.0.1:1/none")
    assert commands.run("migrate", values) == 1
    assert "IDENTITY_DATABASE_URL" in capsys.readouterr().err
