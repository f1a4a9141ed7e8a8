"""Clears away what can matter to nobody any more, a little at a time.

Codes stay for a day, so that a late second use is still recognised. Revocations stay for a day after the last token
they match is dead, for readers that lag. Sessions and grants stay for a week after their end.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Connection, Table, delete, exists, func, select

from identity.people.post import stale
from identity.people.storage import mail_links, mails
from identity.storage import (
    client_assertions,
    codes,
    device_codes,
    grants,
    login_sessions,
    pushed_requests,
    refresh_tokens,
    revocations,
    revoked_tokens,
    wrong_user_codes,
)
from servicekit.database import Database
from servicekit.errors import ServiceError

BATCH = 500  # rows in one transaction, so that nobody waits long behind it
EVERY_SECONDS = 60.0
DAY_MS = 86_400_000
KEPT_MS = 7 * DAY_MS

_log = structlog.get_logger("identity.housekeeping")


def sweep(tx: Connection, now: int) -> int:
    """Deletes at most one batch of each kind; how many rows that were."""
    removed = 0
    for table, is_dead in _dead(now):
        keys = list(table.primary_key.columns)
        batch = select(*keys).where(is_dead).limit(BATCH)
        rows = tx.execute(batch).all()
        for row in rows:
            same: Any = [column == value for column, value in zip(keys, row, strict=True)]
            removed += tx.execute(delete(table).where(*same)).rowcount
    return removed


def _dead(now: int) -> list[tuple[Table, ColumnElement[bool]]]:
    """What is dead, children before those they refer to."""
    grant_over = func.coalesce(grants.c.ended_at, grants.c.expires_at) < now - KEPT_MS
    session_over = func.coalesce(login_sessions.c.ended_at, login_sessions.c.expires_at) < now - KEPT_MS
    of_a_dead_grant = exists().where(grants.c.id == refresh_tokens.c.grant_id, grant_over)
    no_refresh_left = ~exists().where(refresh_tokens.c.grant_id == grants.c.id)
    nothing_left = ~exists().where(grants.c.session_id == login_sessions.c.id)
    for table in (codes, device_codes):
        nothing_left &= ~exists().where(table.c.session_id == login_sessions.c.id)
    return [
        (mail_links, mail_links.c.expires_at < now - DAY_MS),
        (mails, stale(now, DAY_MS)),
        (codes, codes.c.expires_at < now - DAY_MS),
        (device_codes, device_codes.c.expires_at < now - DAY_MS),
        (wrong_user_codes, wrong_user_codes.c.at < now - DAY_MS),
        (revoked_tokens, revoked_tokens.c.dead_at < now),
        (pushed_requests, pushed_requests.c.expires_at < now),
        (client_assertions, client_assertions.c.expires_at < now),
        (revocations, revocations.c.dead_at < now - DAY_MS),
        (refresh_tokens, of_a_dead_grant),
        (grants, grant_over & no_refresh_left),
        (login_sessions, session_over & nothing_left),
    ]


class Housekeeping:
    """Sweeps every minute, and again at once while there is a full batch to take."""

    def __init__(self, database: Database, *, pause: Callable[[float], Any] = asyncio.sleep) -> None:
        self._database = database
        self._pause = pause

    async def run(self) -> None:
        """Sweeps until it is cancelled; a database that does not answer is asked again later."""
        while True:
            removed = 0
            try:
                removed = await self._database.run(lambda tx: sweep(tx, self._database.now(tx)))
            except ServiceError as error:
                _log.warning("sweep_failed", reason=error.reason)
            if removed:
                _log.debug("swept", rows=removed)
            await self._pause(1.0 if removed >= BATCH else EVERY_SECONDS)
