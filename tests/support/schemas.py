"""Databases that are up to date from the beginning: identity's steps take a tenth of a second, a copied file nothing.

The service still brings them up to date at its start, and finds nothing to do. That the steps work on an empty database
is tested where they are: tests/contract.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import make_url

from servicekit.migrations import migrate


def prepare(database_url: str, package: str) -> None:
    """Makes the SQLite file of this URL, if there is none yet, with the newest schema. Leaves PostgreSQL alone."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database and not (file := Path(url.database)).exists():
        file.write_bytes(_made_once(package))


@cache
def _made_once(package: str) -> bytes:
    with TemporaryDirectory() as folder:
        migrate(f"sqlite:///{folder}/new.db", package)
        (file,) = Path(folder).iterdir()  # nothing is left in a log beside it
        return file.read_bytes()
