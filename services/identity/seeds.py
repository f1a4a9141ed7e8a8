"""Accounts and clients from a JSON file, for a first start: `python -m identity seed < seeds.json`.

    {"users":   [{"email": "...", "name": "...", "password": "...", "roles": ["admin"]}],
     "clients": [{"id": "...", "name": "...", "secret": "...", "scopes": ["..."], ...}]}

What is there already stays as it is, so seeding twice changes nothing.
"""

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, SecretStr
from sqlalchemy import Connection

from identity.domain import secret_digest
from identity.service import Accounts, NewClient, NewUser


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class UserSeed(_Strict):
    """One account."""

    email: str
    name: str
    password: SecretStr
    roles: tuple[str, ...] = ()


class ClientSeed(_Strict):
    """One client; the members are the columns of identity.storage.clients. Without a secret it is public."""

    id: str
    name: str
    secret: SecretStr | None = None
    first_party: bool = False
    redirect_uris: tuple[str, ...] = ()
    grant_types: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    refresh_without_offline: bool = False
    exchange_scopes: tuple[str, ...] = ()
    asks_always: bool = False


class Seeds(_Strict):
    """A whole file."""

    users: tuple[UserSeed, ...] = ()
    clients: tuple[ClientSeed, ...] = ()


def sow(accounts: Accounts, seeds: Seeds, hash_password: Callable[[str], str]) -> int:
    """Adds what is missing, in one transaction; how many accounts and clients that were."""
    # Hashed before the transaction: nobody waits behind Argon2id.
    users = [
        NewUser(user.email, user.name, hash_password(user.password.get_secret_value()), user.roles)
        for user in seeds.users
    ]
    clients = [_client(seed) for seed in seeds.clients]

    def work(tx: Connection) -> int:
        added = [accounts.add_user(tx, user) for user in users]
        return sum(added + [accounts.add_client(tx, client) for client in clients])

    return accounts.database.run_sync(work)


def _client(seed: ClientSeed) -> NewClient:
    values = seed.model_dump(exclude={"secret"})
    secret_hash = None if seed.secret is None else secret_digest(seed.secret.get_secret_value())
    return NewClient(**values, secret_hash=secret_hash)
