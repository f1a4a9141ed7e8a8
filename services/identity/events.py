"""What identity tells of accounts, on the stream `identity.events`: written in the transaction that makes it true.

A row of the outbox's counters is locked for each account that is told of, from then to the commit. Its place in the
order of locks is behind everything that belongs to an account and before the keys and the log (see storage); of several
accounts the one with the smaller id comes first.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, select

from contracts.identity.v1.events_pb2 import GrantWithdrawn, SessionsEnded
from eventlog.outbox import Outbox
from identity.domain import Cause
from identity.endings import Ending, Fact
from identity.storage import grants

STREAM = "identity.events"
# The groups without whose word no event is forgotten.
READERS = ("notifications",)

# A client that hands its tokens back, and a thief found out: the first is nobody's news, the second has its own event.
_NOT_WITHDRAWN = frozenset({Cause.TOKEN_REVOKED, Cause.CODE_REUSED, Cause.REFRESH_REUSED})


class SecurityEvents:
    """Tells facts, each once. `outbox` is for STREAM."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def tell(self, tx: Connection, facts: Iterable[Fact]) -> None:
        """Tells `facts` if `tx` commits. After it, `tx` may lock keys and the log's counter and nothing else."""
        for fact in sorted(facts, key=lambda fact: fact.subject):
            self._outbox.append(tx, fact.message, aggregate=fact.subject)

    def witness(self, tx: Connection, ending: Ending) -> None:
        """Tells what a person should hear of an ending (a Witness of the revocation log)."""
        self.tell(tx, [*_facts(tx, ending), *ending.facts])


def _facts(tx: Connection, ending: Ending) -> list[Fact]:
    by = ending.by or ending.subject
    if ending.kind == "grant":
        if not ending.grants or ending.cause in _NOT_WITHDRAWN:
            return []
        client_id = tx.execute(select(grants.c.client_id).where(grants.c.id == ending.grants[0])).scalar_one()
        withdrawn = GrantWithdrawn(subject=ending.subject, client_id=client_id, grant_id=ending.grants[0])
        return [Fact(ending.subject, withdrawn)]
    if ending.kind == "session":
        if not ending.sessions:
            return []
        told = SessionsEnded(subject=ending.subject, session_ids=ending.sessions, cause=ending.cause, ended_by=by)
        return [Fact(ending.subject, told)]
    if not ending.sessions and not ending.grants:
        return []
    return [Fact(ending.subject, SessionsEnded(subject=ending.subject, cause=ending.cause, ended_by=by))]
