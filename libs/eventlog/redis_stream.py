"""A stream in Redis 7 or later, or Valkey: one Redis Stream whose ids are the positions SQL gave out (`<position>-0`).

Beside it, per group: `{<stream>}:dead:<group>`, the dead letters, and `{<stream>}:redriven:<group>`, what an operator
put back, which only that group reads. `{<stream>}:settled` is what the producer announced last.

Two clients: one for commands that answer at once, one for reads that block; each fails instead of retrying, because
whoever calls has a loop that comes again (redis-py by itself tries ten times, five seconds each).
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from eventlog import redis_scripts as scripts
from eventlog.memory_stream import SUSPECT
from eventlog.stream import Acknowledged, Backlog, DeadLetter, Delays, Delivery, Due, GroupLost, StreamUnavailable
from rescind.redis_client import redis_client

LONGEST_WAIT = 5.0  # seconds that one read may block
_ANSWER = 2.0  # seconds in which Redis answers anything
_FIELD = b"e"
_DUE_AT_ONCE = 7 * 24 * 3600 * 1000  # ms of idleness: longer than any delay


def _client(url: str, answer: float) -> "Redis":
    # One shape of answers, on every server.
    return redis_client(url, timeout=answer, connect_timeout=_ANSWER, protocol=2)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except ResponseError as error:
        if "NOGROUP" in str(error):
            raise GroupLost(str(error)) from error
        raise StreamUnavailable(f"Redis refuses: {error}") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StreamUnavailable(f"Redis does not answer: {error}") from error


class RedisStream:
    """Keeps the promises of `Stream`. Connects when first used."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._now = _client(url, _ANSWER)
        self._blocking = _client(url, LONGEST_WAIT + _ANSWER)
        self._last = self._script(scripts.LAST)
        self._append = self._script(scripts.APPEND)
        self._trim = self._script(scripts.TRIM)

    def _script(self, source: str) -> Callable[..., Any]:
        return self._now.register_script(source)

    async def last(self) -> int:
        """See `Stream`."""
        with _failures():
            return int(await self._last(keys=[self.name]))

    async def append(self, after: int, entries: Sequence[tuple[int, bytes]]) -> int:
        """See `Stream`."""
        arguments: list[int | bytes] = [after]
        for position, payload in entries:
            arguments += (position, payload)
        with _failures():
            return int(await self._append(keys=[self.name], args=arguments))

    async def trim(self, required: Collection[str]) -> Acknowledged | None:
        """See `Stream`."""
        with _failures():
            try:
                rows: Any = await self._now.xinfo_groups(self.name)
            except ResponseError as error:
                if "no such key" in str(error).lower():
                    return None
                raise
            # A group that joins from here on has no dead letters yet; the script itself looks at all groups.
            names = sorted({*(row["name"].decode() for row in rows), *required})
            keys = [key for name in names for key in _keys(self.name, name)[1:]]
            answer = await self._trim(keys=[self.name, *keys], args=sorted(required))
        return None if answer is None else Acknowledged(int(answer[0]), int(answer[1]))

    async def announce(self, settled: int) -> None:
        """See `Stream`."""
        with _failures():
            await self._now.set(_settled_key(self.name), settled)

    def group(self, name: str) -> "RedisGroup":
        """See `Stream`."""
        return RedisGroup(self.name, name, self._now, self._blocking)

    async def aclose(self) -> None:
        """See `Stream`."""
        await self._now.aclose()
        await self._blocking.aclose()


class RedisGroup:
    """A consumer group of a `RedisStream`."""

    def __init__(self, stream: str, name: str, now: "Redis", blocking: "Redis") -> None:
        self.stream = stream
        self.name = name
        self._now = now
        self._blocking = blocking
        self._keys = _keys(stream, name)
        self._due = now.register_script(scripts.DUE)
        self._give_back = now.register_script(scripts.GIVE_BACK)
        self._bury = now.register_script(scripts.BURY)
        self._redrive = now.register_script(scripts.REDRIVE)
        self._tidy = now.register_script(scripts.TIDY)
        self._backlog = now.register_script(scripts.BACKLOG)

    async def join(self) -> None:
        """See `Group`."""
        with _failures():
            for key in self._keys[:2]:
                try:
                    await self._now.xgroup_create(key, self.name, id="0", mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise

    async def read(self, consumer: str, count: int, wait: float) -> Sequence[Delivery]:
        """See `Group`. A `wait` above LONGEST_WAIT is cut."""
        # BLOCK 0 would be for ever.
        block = max(1, round(min(wait, LONGEST_WAIT) * 1000)) if wait > 0 else None
        client = self._blocking if block else self._now
        streams: Any = dict.fromkeys(self._keys[:2], ">")
        with _failures():
            answer: Any = await client.xreadgroup(self.name, consumer, streams, count=count, block=block)
        return [
            _delivery(id_, fields, redriven=key.decode() != self.stream)
            for key, entries in answer or ()
            for id_, fields in entries
        ]

    async def due(self, consumer: str, delays: Delays, count: int) -> Due:
        """See `Group`."""
        milliseconds = [round(seconds * 1000) for seconds in (delays.first, delays.longest, delays.lease)]
        arguments: list[str | int] = [self.name, consumer, *milliseconds, count, SUSPECT, scripts.PARKED]
        with _failures():
            parked, next_in, rows = await self._due(keys=self._keys, args=arguments)
        deliveries = []
        for redriven, abandoned, attempt, id_, flat in rows:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            deliveries.append(
                _delivery(id_, fields, attempt=attempt, redriven=bool(redriven), abandoned=bool(abandoned))
            )
        return Due(deliveries, parked, None if next_in < 0 else next_in / 1000)

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See `Group`."""
        log = [delivery.key for delivery in deliveries if not delivery.redriven]
        redriven = [delivery.key for delivery in deliveries if delivery.redriven]
        with _failures():
            if not redriven:
                if log:
                    await self._now.xack(self._keys[0], self.name, *log)
                return
            async with self._now.pipeline(transaction=True) as pipeline:
                if log:
                    pipeline.xack(self._keys[0], self.name, *log)
                pipeline.xack(self._keys[1], self.name, *redriven)
                pipeline.xdel(self._keys[1], *redriven)
                await pipeline.execute()

    async def park(self, deliveries: Sequence[Delivery], *, counted: bool = True) -> None:
        """See `Group`."""
        with _failures():
            async with self._now.pipeline(transaction=False) as pipeline:
                for delivery in deliveries:
                    back: dict[str, Any] = (
                        {} if counted else {"idle": _DUE_AT_ONCE, "retrycount": max(0, delivery.attempt - 1)}
                    )
                    key = self._keys[int(delivery.redriven)]
                    pipeline.xclaim(key, self.name, scripts.PARKED, 0, [delivery.key], justid=True, **back)
                await pipeline.execute()

    async def give_back(self, consumer: str, *, besides: Collection[Delivery] = (), leave: bool = False) -> None:
        """See `Group`."""
        kept = [f"{int(delivery.redriven)}:{delivery.key}" for delivery in besides]
        arguments: list[str | int] = [self.name, consumer, _DUE_AT_ONCE, int(leave), scripts.PARKED, *kept]
        with _failures():
            await self._give_back(keys=self._keys, args=arguments)

    async def bury(self, delivery: Delivery, reason: str, detail: str, *, limit: int) -> bool:
        """See `Group`."""
        place: list[str | int] = [self.name, delivery.key, int(delivery.redriven), limit, delivery.position]
        letter: list[str | int | bytes] = [reason, detail, delivery.attempt, delivery.payload]
        with _failures():
            return bool(await self._bury(keys=self._keys, args=[*place, *letter]))

    async def tidy(self, idle: float) -> None:
        """See `Group`."""
        with _failures():
            await self._tidy(keys=self._keys, args=[self.name, round(idle * 1000), scripts.PARKED])

    async def settled(self) -> int:
        """See `Group`."""
        with _failures():
            return int(await self._now.get(_settled_key(self.stream)) or 0)

    async def backlog(self) -> Backlog:
        """See `Group`."""
        with _failures():
            try:
                last, first, delivered, pending, redriven, dead = await self._backlog(keys=self._keys, args=[self.name])
            except ResponseError as error:
                if "no such key" in str(error).lower():
                    raise GroupLost(self.name) from error
                raise
        # Positions have no gaps, so a difference is a count; `lag` of XINFO may be nil.
        return Backlog(last - max(delivered, first - 1) + redriven, pending, dead)

    async def dead_letters(self, count: int, after: str = "") -> Sequence[DeadLetter]:
        """See `Group`."""
        with _failures():
            entries: Any = await self._now.xrange(self._keys[2], min=f"({after}" if after else "-", count=count)
        return [
            DeadLetter(
                id=id_.decode(),
                position=int(fields[b"position"]),
                reason=fields[b"reason"].decode(),
                detail=fields[b"detail"].decode(),
                attempts=int(fields[b"attempts"]),
                buried_at=int(fields[b"at"]),
                payload=fields[_FIELD],
            )
            for id_, fields in entries
        ]

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `Group`."""
        with _failures():
            return int(await self._redrive(keys=self._keys, args=list(ids)))

    async def discard(self, ids: Sequence[str]) -> int:
        """See `Group`."""
        with _failures():
            return int(await self._now.xdel(self._keys[2], *ids)) if ids else 0


def _keys(stream: str, group: str) -> list[str]:
    return [stream, f"{{{stream}}}:redriven:{group}", f"{{{stream}}}:dead:{group}"]


def _settled_key(stream: str) -> str:
    return f"{{{stream}}}:settled"


def _delivery(
    id_: bytes, fields: Mapping[bytes, bytes], *, attempt: int = 1, redriven: bool = False, abandoned: bool = False
) -> Delivery:
    key = id_.decode()
    position = int(fields[b"position"]) if redriven else int(key.partition("-")[0])
    # Nobody of ours writes an entry without the field: then it is unreadable, and ends in the dead letters.
    return Delivery(key, position, fields.get(_FIELD, b""), attempt, redriven, abandoned)
