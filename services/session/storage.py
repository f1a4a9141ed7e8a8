"""Where sessions are kept: a seam of some methods, and Redis behind it.

    session:s:<key>            hash: the session (JSON), last use, sealed refresh token, its version, sealed tokens
    session:by:<kind>:<id>     sorted set of keys by their absolute end: of a subject, sid, gid or client
    session:login:<key>        a sign-in that a browser has begun, until it comes back
    session:lock:<key>         who refreshes this session's tokens now
    session:once:<id>          what may be seen once: the `jti` of a logout token
    session:pending            sorted set of keys of sign-outs that identity has not heard of, by when they are due
    session:pending:records    hash of these (JSON)

What must not come apart is one Lua script: Redis 7 and Valkey 9 run each whole or not at all. All keys of a call are
declared, so it works wherever they live on one node; a cluster would need a hash tag around `session`.

Times are the caller's (milliseconds), so a test can move them; Redis' own expiry only cleans up. Losing Redis signs
everybody out and shows nobody another's session: a new one is stored under the digest of 256 random bits.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from servicekit.errors import Kind, ServiceError
from session.domain import Attempt, Held, PendingSignOut, SealedToken, Session, SessionKey

IndexKind = Literal["subject", "sid", "gid", "client"]
_RETRY_AFTER = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Renewed:
    """What one refresh changes: the refresh token, one access token, and the generations stamped into it."""

    refresh: str  # sealed
    audience: str
    token: SealedToken
    gen: int
    cgen: int
    rotated_at: int  # ms


class SessionStore(Protocol):
    """Keeps sessions. Every method raises ServiceError SESSIONS_UNAVAILABLE when the store does not answer."""

    async def begin(self, key: SessionKey, attempt: Attempt, life: int) -> None:
        """Keeps a sign-in for `life` ms."""

    async def take(self, key: SessionKey) -> Attempt | None:
        """The sign-in, once: of any number who ask, one gets it."""

    async def create(self, held: Held, now: int, idle: int, replaces: SessionKey | None = None) -> None:
        """Adds a session, and in the same step removes the one that it takes the place of."""

    async def find(self, key: SessionKey, now: int, idle: int, *, use: bool) -> Held | None:
        """The session if it lives: neither past its absolute end nor `idle` ms without use. `use` counts as one."""

    async def renew(self, key: SessionKey, version: int, renewed: Renewed) -> bool:
        """Saves a refresh, if the session is there and nobody else saved one since `version` was read."""

    async def add_token(self, key: SessionKey, audience: str, token: SealedToken) -> bool:
        """Replaces one token that did not come of a refresh; False when the session is gone."""

    async def remove(self, key: SessionKey) -> Held | None:
        """Removes a session; what was there, with its newest tokens."""

    async def of(self, kind: IndexKind, id_: str, now: int, idle: int) -> Sequence[Session]:
        """The living sessions of a person, login session, grant or client, last used first."""

    async def first_time(self, id_: str, life: int) -> bool:
        """Whether `id_` was not seen in the last `life` ms; of any number who ask at once, one is told True."""

    async def keep_pending(self, pending: PendingSignOut, now: int, most: int) -> bool:
        """Keeps a sign-out to be finished, due at once, unless `most` are kept already."""

    async def claim_pending(self, now: int, lease: int) -> PendingSignOut | None:
        """One that is due; nobody else is given it for `lease` ms."""

    async def put_off_pending(self, pending: PendingSignOut, due: int) -> None:
        """Saves one as it is now, and when it is due again; nothing if it was dropped meanwhile."""

    async def drop_pending(self, key: SessionKey) -> None:
        """Keeps one no more."""

    def lock(self, key: SessionKey, owner: str, life: int) -> AbstractAsyncContextManager[bool]:
        """Yields whether `owner` has the session's lock, for `life` ms at most; lets go of it at the end."""


# KEYS: session, [session it replaces], indexes ...; ARGV: record, last, refresh, version, rotated, gen, cgen, key, now,
# expires_at, idle, whether one is replaced, then audience and token in turn
_CREATE = """
local first = 2
if ARGV[12] == '1' then redis.call('DEL', KEYS[2]) first = 3 end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'last', ARGV[2], 'refresh', ARGV[3], 'version', ARGV[4],
           'rotated', ARGV[5], 'gen', ARGV[6], 'cgen', ARGV[7])
for i = 13, #ARGV, 2 do redis.call('HSET', KEYS[1], 't:' .. ARGV[i], ARGV[i + 1]) end
local life = tonumber(ARGV[10]) - tonumber(ARGV[9])
redis.call('PEXPIRE', KEYS[1], math.min(life, tonumber(ARGV[11])))
for i = first, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', ARGV[9])
  redis.call('ZADD', KEYS[i], ARGV[10], ARGV[8])
  if redis.call('PTTL', KEYS[i]) < life then redis.call('PEXPIRE', KEYS[i], life) end
end
"""

# KEYS: session; ARGV: now, idle, use
_FIND = """
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return fields end
local last, record = 0, nil
for i = 1, #fields, 2 do
  if fields[i] == 'last' then last = tonumber(fields[i + 1]) end
  if fields[i] == 'record' then record = fields[i + 1] end
end
local now, idle, expires = tonumber(ARGV[1]), tonumber(ARGV[2]), cjson.decode(record)['expires_at']
if now >= expires or now >= last + idle then
  redis.call('DEL', KEYS[1])
  return {}
end
if ARGV[3] == '1' and now > last then
  redis.call('HSET', KEYS[1], 'last', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], math.min(expires - now, idle))
end
return fields
"""

# KEYS: session; ARGV: version, refresh, rotated, gen, cgen, audience, token
_RENEW = """
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'refresh', ARGV[2], 'rotated', ARGV[3], 'gen', ARGV[4], 'cgen', ARGV[5],
           't:' .. ARGV[6], ARGV[7])
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
"""

# KEYS: session; ARGV: audience, token
_ADD = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 't:' .. ARGV[1], ARGV[2])
return 1
"""

# KEYS: lock; ARGV: owner. Only its owner lets go of it: it may have run out and be another's by now.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

# KEYS: pending, records; ARGV: key, now, record, life, most
_KEEP = """
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[5]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
for i = 1, 2 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
end
return 1
"""

# KEYS: pending, records; ARGV: now, lease
_CLAIM = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1)
if #due == 0 then return false end
redis.call('ZADD', KEYS[1], tonumber(ARGV[1]) + tonumber(ARGV[2]), due[1])
return redis.call('HGET', KEYS[2], due[1])
"""

# KEYS: pending, records; ARGV: key, due, record
_PUT_OFF = """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
"""

_PENDING = ("session:pending", "session:pending:records")


class RedisSessions:
    """Sessions in Redis or Valkey. `client` decodes responses, and has short timeouts and no retries of its own."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client  # redis-py types its scripts loosely
        self._create = client.register_script(_CREATE)
        self._find = client.register_script(_FIND)
        self._renew = client.register_script(_RENEW)
        self._add_token = client.register_script(_ADD)
        self._release = client.register_script(_RELEASE)
        self._keep = client.register_script(_KEEP)
        self._claim = client.register_script(_CLAIM)
        self._put_off = client.register_script(_PUT_OFF)

    async def begin(self, key: SessionKey, attempt: Attempt, life: int) -> None:
        """Keeps a sign-in for `life` ms."""
        await _answered(self._redis.set(f"session:login:{key}", json.dumps(asdict(attempt)), px=life))

    async def take(self, key: SessionKey) -> Attempt | None:
        """The sign-in, once."""
        found = await _answered(self._redis.getdel(f"session:login:{key}"))
        return None if found is None else Attempt(**json.loads(found))

    async def create(self, held: Held, now: int, idle: int, replaces: SessionKey | None = None) -> None:
        """Adds a session, and removes the one that it takes the place of."""
        session = held.session
        indexes = (("subject", session.subject), ("sid", session.sid), ("gid", session.gid))
        keys = [_at(session.key)]
        if replaces is not None:
            keys.append(_at(replaces))
        keys += [_index(kind, id_) for kind, id_ in (*indexes, ("client", session.client_id))]
        values: list[Any] = [
            _record(session), session.last_used_at, held.refresh, held.version, held.rotated_at, session.gen,
            session.cgen, session.key, now, session.expires_at, idle, int(replaces is not None),
        ]  # fmt: skip
        for audience, token in held.tokens.items():
            values += [audience, _token(token)]
        await _answered(self._create(keys=keys, args=values))

    async def find(self, key: SessionKey, now: int, idle: int, *, use: bool) -> Held | None:
        """The session if it lives."""
        fields = await _answered(self._find(keys=[_at(key)], args=[now, idle, int(use)]))
        return _held(dict(zip(fields[::2], fields[1::2], strict=True))) if fields else None

    async def renew(self, key: SessionKey, version: int, renewed: Renewed) -> bool:
        """Saves a refresh, unless another was saved since `version` was read."""
        values: list[Any] = [
            version, renewed.refresh, renewed.rotated_at, renewed.gen, renewed.cgen, renewed.audience,
            _token(renewed.token),
        ]  # fmt: skip
        return bool(await _answered(self._renew(keys=[_at(key)], args=values)))

    async def add_token(self, key: SessionKey, audience: str, token: SealedToken) -> bool:
        """Replaces one token."""
        return bool(await _answered(self._add_token(keys=[_at(key)], args=[audience, _token(token)])))

    async def remove(self, key: SessionKey) -> Held | None:
        """Removes a session; of any number who do, one is told what was there."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(_at(key))
        pipe.delete(_at(key))
        fields, _ = await _answered(pipe.execute())
        if not fields:
            return None
        held = _held(fields)
        session = held.session
        pipe = self._redis.pipeline(transaction=False)
        for kind, id_ in (("subject", session.subject), ("sid", session.sid), ("gid", session.gid)):
            pipe.zrem(_index(kind, id_), key)
        pipe.zrem(_index("client", session.client_id), key)
        with contextlib.suppress(ServiceError):  # it is gone; `of` clears what an index still names
            await _answered(pipe.execute())
        return held

    async def of(self, kind: IndexKind, id_: str, now: int, idle: int) -> Sequence[Session]:
        """The living sessions of a person, login session, grant or client, last used first."""
        index = _index(kind, id_)
        keys = [SessionKey(key) for key in await _answered(self._redis.zrange(index, 0, -1))]
        found = [(key, await self.find(key, now, idle, use=False)) for key in keys]
        gone = [key for key, held in found if held is None]
        if gone:
            await _answered(self._redis.zrem(index, *gone))
        living = [held.session for _, held in found if held is not None]
        return sorted(living, key=lambda session: session.last_used_at, reverse=True)

    async def first_time(self, id_: str, life: int) -> bool:
        """Whether `id_` was not seen in the last `life` ms."""
        return bool(await _answered(self._redis.set(f"session:once:{id_}", "1", px=life, nx=True)))

    async def keep_pending(self, pending: PendingSignOut, now: int, most: int) -> bool:
        """Keeps a sign-out to be finished, unless `most` are kept already."""
        values: list[Any] = [pending.key, now, json.dumps(asdict(pending)), max(1, pending.expires_at - now), most]
        return bool(await _answered(self._keep(keys=_PENDING, args=values)))

    async def claim_pending(self, now: int, lease: int) -> PendingSignOut | None:
        """One that is due, for `lease` ms."""
        found = await _answered(self._claim(keys=_PENDING, args=[now, lease]))
        return None if found is None else PendingSignOut(**json.loads(found))

    async def put_off_pending(self, pending: PendingSignOut, due: int) -> None:
        """Saves one as it is now, and when it is due again."""
        await _answered(self._put_off(keys=_PENDING, args=[pending.key, due, json.dumps(asdict(pending))]))

    async def drop_pending(self, key: SessionKey) -> None:
        """Keeps one no more."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.zrem(_PENDING[0], key)
        pipe.hdel(_PENDING[1], key)
        await _answered(pipe.execute())

    @asynccontextmanager
    async def lock(self, key: SessionKey, owner: str, life: int) -> AsyncIterator[bool]:
        """Yields whether `owner` has the session's lock."""
        name = f"session:lock:{key}"
        got = bool(await _answered(self._redis.set(name, owner, px=life, nx=True)))
        try:
            yield got
        finally:
            if got:
                await _answered(self._release(keys=[name], args=[owner]))


async def _answered(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (RedisError, OSError, TimeoutError) as error:
        raise unavailable() from error


def unavailable() -> ServiceError:
    """The store does not answer: nothing is known about the session, so nothing is said about it."""
    return ServiceError(
        Kind.UNAVAILABLE, "SESSIONS_UNAVAILABLE", "Sessions cannot be looked up right now.", retry_after=_RETRY_AFTER
    )


def _at(key: SessionKey) -> str:
    return f"session:s:{key}"


def _index(kind: str, id_: str) -> str:
    return f"session:by:{kind}:{id_}"


_CHANGING = ("last_used_at", "gen", "cgen")


def _record(session: Session) -> str:
    return json.dumps({name: value for name, value in asdict(session).items() if name not in _CHANGING})


def _token(token: SealedToken) -> str:
    return json.dumps(asdict(token))


def _held(fields: Mapping[str, str]) -> Held:
    changing: dict[str, Any] = {
        "last_used_at": int(fields["last"]),
        "gen": int(fields["gen"]),
        "cgen": int(fields["cgen"]),
    }
    tokens = {name[2:]: SealedToken(**json.loads(text)) for name, text in fields.items() if name.startswith("t:")}
    return Held(
        session=Session(**json.loads(fields["record"]), **changing),
        refresh=fields["refresh"],
        version=int(fields["version"]),
        rotated_at=int(fields["rotated"]),
        tokens=tokens,
    )
