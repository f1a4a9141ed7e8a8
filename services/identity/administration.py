"""Taking back by name, keys, and the log as a whole: what administrators and operators do.

Each opens one transaction, decides, commits, and then sees to it that what was committed is pushed. Work that takes
long (making a key) is done before the transaction.
"""

import asyncio
import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog
from sqlalchemy import Connection, select

from identity.audit import AuditTrail
from identity.domain import Cause, Entropy, Position
from identity.keyring import KeyRecord, KeyRing, SpareTooYoung
from identity.new_log import AlreadyBegun, FreshKeys, begin_new_log
from identity.publisher import Publisher
from identity.revocations import RevocationLog
from identity.storage import log_state
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

TargetKind = Literal["token", "session", "grant", "subject", "client", "key"]

_CAUSE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_NAMED = {"subject": "user"}  # as the audit log calls it
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_log = structlog.get_logger("identity.administration")


@dataclass(frozen=True, slots=True)
class Administration:
    """Taking back by name, keys, and the log as a whole."""

    database: Database
    keyring: KeyRing
    revocations: RevocationLog
    publisher: Publisher
    entropy: Entropy
    audit: AuditTrail

    async def revoke(self, kind: TargetKind, target: str, *, cause: str, soft: bool = False, by: str = "") -> Position:
        """Refuses from now on everything that `target` names. `by`: the `sub` of whoever does it.

        Raises:
            ServiceError: BAD_TARGET, BAD_CAUSE; SOFT_NOT_POSSIBLE for what has no generation.
        """
        cause = cause or Cause.ADMINISTRATOR
        if _CAUSE.fullmatch(cause) is None:
            raise ServiceError(Kind.INVALID, "BAD_CAUSE", "A cause is UPPER_SNAKE, 64 characters at most.")
        if _ID.fullmatch(target) is None or (kind == "subject" and not target.startswith("usr_")):
            raise ServiceError(Kind.INVALID, "BAD_TARGET", f"This is no {kind}.")
        if soft and kind not in ("subject", "client"):
            raise ServiceError(Kind.INVALID, "SOFT_NOT_POSSIBLE", "Only subjects and clients have generations.")
        if kind == "key":
            return await self.revoke_key(target, by=by)
        work = partial(self._revoke, kind=kind, target=target, cause=cause, soft=soft, by=by)
        position = await self.database.run(work)
        await self.publisher.publish_pending()
        _log.info("revoked", kind=kind, cause=cause, soft=soft, pos=position.pos)
        return position

    def _revoke(self, tx: Connection, kind: TargetKind, target: str, cause: str, soft: bool, by: str) -> Position:
        log = self.revocations
        self.audit.write(tx, by, "REVOKED_SOFTLY" if soft else "REVOKED", _NAMED.get(kind, kind), target, cause=cause)
        match kind:
            case "token":
                return log.revoke_token(tx, target, cause)
            case "session":
                return log.revoke_session(tx, target, cause, by=by)
            case "grant":
                return log.revoke_grant(tx, target, cause, by=by)
            case "subject":
                return log.revoke_subject(tx, target, cause, soft=soft, by=by)
            case _:
                return log.revoke_client(tx, target, cause, soft=soft)

    async def revoke_key(self, kid: str, *, by: str = "") -> Position:
        """Refuses all that `kid` signed, at once. A key of the log takes its log with it: a new one begins."""
        fresh = await asyncio.to_thread(self.keyring.make_key)

        def looked_up(tx: Connection) -> tuple[str, str | None, bool]:
            # The log first: who revokes the same key at once ends this log and no later one.
            log, purpose = _log_id(tx), self.keyring.purpose_of(tx, kid)
            return log, purpose, purpose == "log" and kid in self.keyring.accepted_kids(tx, "log")

        log, purpose, ends_its_log = await self.database.read(looked_up)
        if purpose == "log":
            if ends_its_log:
                await self.begin_new_log(log, log_keys_too=True, by=by)
        else:
            await self.database.run(
                self.audit.around(partial(self.keyring.revoke, kid=kid, fresh=fresh), by, "KEY_REVOKED", "key", kid)
            )
        position = await self.database.read(self.revocations.nothing)
        await self.publisher.beat_now()
        _log.warning("key_revoked", kid=kid, purpose=purpose)
        return position

    async def rotate_keys(self, purpose: Literal["access", "log"] = "access", *, by: str = "") -> str:
        """Retires the active key and activates the spare; the kid that signs from now on. Nothing is refused for it.

        Raises:
            ServiceError: SPARE_TOO_YOUNG, with the time to wait.
        """
        fresh = await asyncio.to_thread(self.keyring.make_key)
        try:
            rotate = partial(self.keyring.rotate, purpose=purpose, fresh=fresh)
            kid = await self.database.run(self.audit.around(rotate, by, "KEYS_ROTATED", "key"))
        except SpareTooYoung as error:
            raise ServiceError(
                Kind.UNPROCESSABLE, "SPARE_TOO_YOUNG", "Caches do not hold the spare yet.", retry_after=error.seconds
            ) from error
        await self.publisher.beat_now()
        _log.info("keys_rotated", purpose=purpose, active_kid=kid)
        return kid

    async def keys(self) -> list[KeyRecord]:
        """Every key for access tokens that there ever was, oldest first."""
        return await self.database.read(self.keyring.keys)

    async def begin_new_log(self, ended: str, *, log_keys_too: bool = False, by: str = "") -> str:
        """Ends the log called `ended` (see identity.new_log), unless another replica did; the current log."""
        make = self.keyring.make_key
        pairs = [(await asyncio.to_thread(make), await asyncio.to_thread(make)) for _ in range(1 + log_keys_too)]
        keys = FreshKeys(access=pairs[0], log=pairs[1] if log_keys_too else None)
        begin = partial(
            begin_new_log,
            ended=ended,
            keyring=self.keyring,
            log=self.revocations,
            keys=keys,
            now=self.database.now,
            entropy=self.entropy,
        )
        try:
            begun = await self.database.run(self.audit.around(begin, by, "NEW_LOG", "log", ended))
        except AlreadyBegun:
            return await self.database.read(_log_id)
        _log.error("new_log_begun", ended=ended, log=begun)
        return begun

    async def end_everything(self, *, by: str) -> str:
        """Signs everybody out everywhere: the log ends, and nothing issued before is accepted; the log that begins."""
        begun = await self.begin_new_log(await self.database.read(_log_id), by=by)
        await self.publisher.beat_now()
        return begun


def _log_id(tx: Connection) -> str:
    return str(tx.execute(select(log_state.c.log)).scalar_one())
