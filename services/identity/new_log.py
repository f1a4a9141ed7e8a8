"""A new log: what follows when SQL went back in time, or when a key that signs the log was stolen.

A restored backup has forgotten revocations, and tokens that were refused would be accepted again. So nothing of the
time before is trusted any more: every access key is revoked and replaced by one that nobody has seen, every generation
is lifted into a new epoch, and every session and grant ends. A verifier that hears the new log's first heartbeat
refuses every earlier token at once, because its `kid` is gone: that is what the new log says in words that every
verifier knows. What was alive in the old log is carried over all the same, packed, so no position's entries are lost.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from identity.domain import GENERATION_BITS, Cause, Entropy, new_id
from identity.keyring import KeyRing, NewKey
from identity.revocations import ENTRIES_PER_MESSAGE, RevocationLog
from identity.storage import clients, exclusive, grants, log_state, login_sessions, revocations, users
from rescind.messages import Entry, genesis


class AlreadyBegun(Exception):
    """Another replica ended the same log first."""


@dataclass(frozen=True, slots=True)
class FreshKeys:
    """Keys for the new time, made before the transaction."""

    access: tuple[NewKey, NewKey]
    log: tuple[NewKey, NewKey] | None = None  # None: the log's keys are not in doubt


def begin_new_log(
    tx: Connection,
    ended: str,
    *,
    keyring: KeyRing,
    log: RevocationLog,
    keys: FreshKeys,
    now: Callable[[Connection], int],
    entropy: Entropy,
) -> str:
    """Ends the log called `ended` and begins another, whose id is returned.

    Raises:
        AlreadyBegun: `ended` is not the current log.
    """
    # The locks in their order (see storage): while these rows are locked, nothing is issued.
    if tx.execute(select(log_state.c.log)).scalar_one() != ended:
        raise AlreadyBegun(ended)
    epoch = tx.execute(select(log_state.c.epoch)).scalar_one() + 1
    lifting = epoch << GENERATION_BITS
    count = (1 << GENERATION_BITS) - 1
    for table in (users, clients):
        tx.execute(exclusive(select(table.c.id).order_by(table.c.id))).all()
        lifted = table.c.gen.bitwise_and(count).bitwise_or(lifting)
        tx.execute(update(table).values(gen=lifted, hard_gen=lifted))
    moment = now(tx)
    for table in (login_sessions, grants):
        tx.execute(update(table).where(table.c.ended_at.is_(None)).values(ended_at=moment))
    keyring.replace(tx, "access", keys.access)
    if keys.log is not None:
        keyring.replace(tx, "log", keys.log)
    state = tx.execute(exclusive(select(log_state))).one()
    if state.log != ended:
        raise AlreadyBegun(ended)
    begun = new_id("log", entropy)
    tx.execute(update(log_state).values(log=begun, epoch=epoch, head=0, head_hash=genesis(begun)))
    living = select(revocations.c.entries).where(revocations.c.log == ended, revocations.c.dead_at > moment)
    entries = [Entry(**entry) for row in tx.execute(living.order_by(revocations.c.pos)).scalars() for entry in row]
    for first in range(0, len(entries), ENTRIES_PER_MESSAGE):
        log.append(tx, entries[first : first + ENTRIES_PER_MESSAGE], Cause.CARRIED_OVER)
    tx.execute(delete(revocations).where(revocations.c.log != begun))
    return begun
