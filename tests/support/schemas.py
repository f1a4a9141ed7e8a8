"""Databases that are up to date from the beginning: identity's steps take a tenth of a second, a copy next to nothing.

The service still brings them up to date at its start, and finds nothing to do. That the steps work on an empty database
is tested where they are: tests/contract.
"""

import secrets
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL, create_engine, inspect, make_url, text

from servicekit.migrations import migrate


def prepare(database_url: str, package: str) -> None:
    """Gives an empty database the newest schema: a SQLite file, which may not be there yet, or one of PostgreSQL."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        if url.database and not (file := Path(url.database)).exists():
            file.write_bytes(_file(package))
    elif _is_empty(url):
        name = url.database
        template = _template(url.set(database="postgres"), package)
        _run(
            url.set(database="postgres"),
            f"DROP DATABASE {name} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE {template}",
        )


@cache
def _file(package: str) -> bytes:
    with TemporaryDirectory() as folder:
        migrate(f"sqlite:///{folder}/new.db", package)
        (file,) = Path(folder).iterdir()  # nothing is left in a log beside it
        return file.read_bytes()


@cache
def _template(server: URL, package: str) -> str:
    """The name of a database on this server that is there to be copied."""
    name = f"template_{package}_{secrets.token_hex(8)}"
    _run(server, f"CREATE DATABASE {name}")
    migrate(server.set(database=name).render_as_string(hide_password=False), package)
    return name


def _is_empty(url: URL) -> bool:
    engine = create_engine(url)
    try:
        return not inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _run(server: URL, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()
