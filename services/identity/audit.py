"""The audit log: who did what, when, to whom; written in the transaction that does it.

It only grows. No code of ours changes or deletes a row, and the database refuses it to everybody who has not first
dropped a trigger (see the migration). It holds ids and words, never a secret, and no e-mail address but through the
account that an id names.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Column, Connection, Integer, Table, Text, insert, or_, select
from sqlalchemy.types import JSON

from identity.storage import metadata
from servicekit.errors import Kind, ServiceError
from servicekit.telemetry import request_id

OPERATOR = "operator"  # whoever has the machine itself: the command line of identity
_ACTION = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
T = TypeVar("T")
_LONGEST_DETAIL = 200  # characters

audit_log = Table(
    "audit_log",
    metadata,
    # Read in the order of ids, which is nearly the order of commits: a slow transaction may come in between later.
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False, index=True),  # `sub`, or OPERATOR
    Column("action", Text, nullable=False),
    Column("target_kind", Text, nullable=False),
    Column("target", Text, nullable=False, index=True),
    Column("details", JSON, nullable=False),
    Column("request_id", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act. `at` in ms by the database clock."""

    id: int
    at: int
    by: str
    action: str
    target_kind: str
    target: str
    details: Mapping[str, str]
    request_id: str


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """Writes and reads the audit log."""

    now: Callable[[Connection], int]

    def write(self, tx: Connection, by: str, action: str, target_kind: str, target: str, **details: str) -> None:
        """Writes one act down, if `tx` commits. `by` is empty for whoever has the machine itself."""
        if _ACTION.fullmatch(action) is None:
            raise ValueError(action)
        tx.execute(
            insert(audit_log).values(
                at=self.now(tx),
                by=by or OPERATOR,
                action=action,
                target_kind=target_kind,
                target=target,
                details={name: value[:_LONGEST_DETAIL] for name, value in details.items()},
                request_id=request_id(),
            )
        )

    def around(
        self, work: Callable[[Connection], T], by: str, action: str, target_kind: str, target: str = ""
    ) -> Callable[[Connection], T]:
        """`work`, and the record of it in the same transaction. Without a `target` it is what `work` returns."""

        def with_record(tx: Connection) -> T:
            done = work(tx)
            self.write(tx, by, action, target_kind, target or str(done))
            return done

        return with_record

    def read(
        self, tx: Connection, *, about: str = "", size: int = 50, token: str = ""
    ) -> tuple[list[AuditRecord], str]:
        """The last acts, last first, at most `size`, and the token of the page behind them (empty: that was all).

        Raises:
            ServiceError: BAD_PAGE_TOKEN.
        """
        query = select(audit_log).order_by(audit_log.c.id.desc()).limit(size + 1)
        if about:
            query = query.where(or_(audit_log.c.target == about, audit_log.c.by == about))
        if token:
            if not (token.isascii() and token.isdigit() and len(token) <= 18):
                raise ServiceError(Kind.INVALID, "BAD_PAGE_TOKEN", "This page token is none of ours.")
            query = query.where(audit_log.c.id < int(token))
        rows = tx.execute(query).all()
        return [_record(row) for row in rows[:size]], str(rows[size - 1].id) if len(rows) > size else ""


def _record(row: Any) -> AuditRecord:
    return AuditRecord(
        row.id, row.at, row.by, row.action, row.target_kind, row.target, dict(row.details), row.request_id
    )
