"""The log as Redis holds it: a stream whose ids are positions, and the channel beside it.

Every change is one script, so it happens whole or not at all and whatever several replicas do at once. Nothing here
believes what it reads: `look` tells what is there, and who asks compares it with SQL.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rescind.messages import REDIS_CHANNEL, REDIS_FIELD, REDIS_HEARTBEAT_KEY, REDIS_STREAM_PREFIX

# Appends messages that continue the log, and pushes the same bytes. What is there already must be the same bytes.
# Answers with the last position and "ok", or why it stopped: "gone", "gap", "differs".
_APPEND = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return {0, 'gone'} end
local last
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = tonumber(string.match(info[i + 1], '^(%d+)-')) end
end
for i = 3, #ARGV, 2 do
  local pos = tonumber(ARGV[i])
  if pos == last + 1 then
    redis.call('XADD', KEYS[1], ARGV[i] .. '-0', ARGV[2], ARGV[i + 1])
    redis.call('PUBLISH', ARGV[1], ARGV[i + 1])
    last = pos
  elseif pos > last then
    return {last, 'gap'}
  else
    local there = redis.call('XRANGE', KEYS[1], ARGV[i] .. '-0', ARGV[i] .. '-0')
    if #there == 1 and there[1][2][2] ~= ARGV[i + 1] then return {last, 'differs'} end
  end
end
return {last, 'ok'}
"""

# What is there: nil if nothing, "alien" if it is no log, else last id, length, oldest id, newest id and its fields.
_LOOK = """
local beat = redis.pcall('GET', KEYS[2])
if type(beat) ~= 'string' then beat = '' end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return {beat} end
if kind ~= 'stream' then return {beat, 'alien'} end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local last
for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return {beat, last, 0} end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {beat, last, redis.call('XLEN', KEYS[1]), oldest[1], newest[1], newest[2]}
"""

# Puts a log that was built aside in the place of what was looked at, if that is still what is there.
_SWAP = """
local last = ''
local newest = ''
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'stream' then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
  local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if entry then newest = entry[1] .. (entry[2][2] or '') end
elseif kind ~= 'none' then
  last = 'alien'
end
if last ~= ARGV[1] or newest ~= ARGV[2] then
  redis.call('DEL', KEYS[2])
  return 0
end
redis.call('RENAME', KEYS[2], KEYS[1])
redis.call('PERSIST', KEYS[1])
return 1
"""

_BEAT = """
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
if redis.call('TYPE', KEYS[2]).ok == 'stream' then redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[3]) end
return 1
"""

_ASIDE_SECONDS = 60  # a rebuild that was given up leaves nothing behind for longer


@dataclass(frozen=True, slots=True)
class Seen:
    """What Redis held at one moment.

    `last` is the last position ever added, None where there is no log or something that is none. `message` is what
    stands at `newest`, None when every message has been trimmed. `state` is what a swap compares with.
    """

    last: int | None
    length: int
    oldest: int
    newest: int
    message: bytes | None
    heartbeat: bytes
    state: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Appended:
    """How far the log reaches now, and whether all that was handed in is there."""

    last: int
    ok: bool


class Commands(Protocol):
    """What is used of a Redis client (redis.asyncio.Redis with bytes as answers)."""

    def register_script(self, script: Any) -> Any: ...
    def pipeline(self, transaction: bool = True) -> Any: ...
    def delete(self, *names: Any) -> Any: ...


class RedisLog:
    """One Redis, whichever log. The client's own time-outs bound every call.

    Raises (every method):
        redis.RedisError, OSError: Redis does not answer, or refuses.
    """

    def __init__(self, redis: Commands) -> None:
        self._redis = redis
        self._append = redis.register_script(_APPEND)
        self._look = redis.register_script(_LOOK)
        self._swap = redis.register_script(_SWAP)
        self._beat = redis.register_script(_BEAT)

    async def append(self, log: str, messages: Sequence[tuple[int, bytes]]) -> Appended:
        """Appends and pushes `messages`, which follow each other, as far as they continue what is there."""
        arguments: list[Any] = [REDIS_CHANNEL, REDIS_FIELD]
        for pos, message in messages:
            arguments += [pos, message]
        last, outcome = await self._append(keys=[_stream(log)], args=arguments)
        return Appended(int(last), outcome == b"ok")

    async def look(self, log: str) -> Seen:
        """What is there, unjudged."""
        answer = await self._look(keys=[_stream(log), REDIS_HEARTBEAT_KEY])
        heartbeat = answer[0]
        if len(answer) == 1:
            return Seen(None, 0, 0, 0, None, heartbeat, (b"", b""))
        last_id = answer[1]
        if len(answer) == 2:
            return Seen(None, 0, 0, 0, None, heartbeat, (last_id, b""))
        if len(answer) == 3:
            return Seen(_position(last_id), 0, 0, 0, None, heartbeat, (last_id, b""))
        length, oldest, newest, fields = answer[2:]
        state = (last_id, newest + (fields[1] if len(fields) > 1 else b""))
        ours = fields[0] == REDIS_FIELD.encode() and len(fields) == 2
        if not ours or newest != last_id or not newest.endswith(b"-0") or not oldest.endswith(b"-0"):
            return Seen(None, length, 0, 0, None, heartbeat, state)
        return Seen(_position(newest), length, _position(oldest), _position(newest), fields[1], heartbeat, state)

    async def rebuild(
        self, log: str, pages: AsyncIterator[Sequence[tuple[int, bytes]]], *, begin: int, seen: Seen
    ) -> bool:
        """Replaces what was `seen` by `pages`, which begin behind position `begin`, in one step; False if somebody
        changed it meanwhile.
        """
        stream = _stream(log)
        aside = f"{stream}:aside:{secrets.token_hex(8)}"  # replicas that rebuild at once do not mix
        build = self._redis.pipeline(transaction=False)
        build.delete(aside)
        # An entry added and removed leaves its id as the stream's last one; 0-0 is no id, 0-1 is position 0 too.
        seed = f"{begin}-0" if begin else "0-1"
        build.xadd(aside, {REDIS_FIELD: b""}, id=seed)
        build.xdel(aside, seed)
        build.expire(aside, _ASIDE_SECONDS)
        await build.execute()
        async for page in pages:
            step = self._redis.pipeline(transaction=False)
            for pos, message in page:
                step.xadd(aside, {REDIS_FIELD: message}, id=f"{pos}-0")
            await step.execute()
        return bool(await self._swap(keys=[stream, aside], args=list(seen.state)))

    async def beat(self, log: str, floor: int, heartbeat: bytes) -> None:
        """Publishes the heartbeat, keeps it where readers find it, and trims the log below `floor`."""
        await self._beat(keys=[REDIS_HEARTBEAT_KEY, _stream(log)], args=[REDIS_CHANNEL, heartbeat, f"{floor}-0"])

    async def forget(self, log: str) -> None:
        """Removes a log that has ended."""
        await self._redis.delete(_stream(log))


def _stream(log: str) -> str:
    return REDIS_STREAM_PREFIX + log


def _position(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
