"""Replay: the signed messages that a reader lacks, from SQL, closed by a signed heartbeat.

It reads in pages, each in a transaction of its own, so a reader that is slow holds no lock and no connection.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from identity.revocations import RevocationLog, Snapshot
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

PAGE = 500


@dataclass(frozen=True, slots=True)
class Replay:
    """Answers readers of the log."""

    database: Database
    log: RevocationLog

    async def messages(self, log: str, after: int, *, nonce: str = "") -> AsyncIterator[bytes]:
        """Every message behind position `after`, in order, then a heartbeat that repeats `nonce`.

        A reader of another log, or of positions below the floor, gets all that is alive.

        Raises:
            ServiceError: LOG_ENDED when a new log begins meanwhile: ask again.
        """
        snapshot = await self.snapshot()
        if log != snapshot.log:
            after = 0
        sent = max(after, snapshot.floor - 1)
        while True:
            while sent < snapshot.head:
                page = await self.database.read(
                    partial(self.log.messages, log=snapshot.log, after=sent, limit=min(PAGE, snapshot.head - sent))
                )
                if not page or page[0][0] != sent + 1:
                    raise _log_ended()
                for _, message in page:
                    yield message
                sent = page[-1][0]
            closing, heartbeat = await self.database.run(partial(self._close, nonce=nonce))
            if closing.log != snapshot.log:
                raise _log_ended()
            if closing.head <= sent:
                # A reader that holds more than SQL has (after > head) sees by the smaller head that it is mistaken.
                yield heartbeat
                return
            snapshot = closing

    async def snapshot(self) -> Snapshot:
        """Where the log stands in SQL."""
        return await self.database.read(self.log.snapshot)

    def _close(self, tx: Connection, nonce: str) -> tuple[Snapshot, bytes]:
        snapshot = self.log.snapshot(tx)
        return snapshot, self.log.heartbeat(tx, snapshot, nonce=nonce)


def _log_ended() -> ServiceError:
    return ServiceError(Kind.UNAVAILABLE, "LOG_ENDED", "A new log has begun; ask again.", retry_after=0.1)
