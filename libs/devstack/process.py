"""One process of the stack: started, watched, broken, stopped, and never left behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from devstack.target import StackError

STOP_SECONDS = 28.0  # a service drains for up to 8, and a mail that is being delivered takes up to 17

# Has the kernel end the process when the supervisor (argument 1) dies, however it dies, then becomes the command: 1 is
# PR_SET_PDEATHSIG of prctl(2). Not by `preexec_fn`: Python code between fork and exec is unsafe beside gRPC's threads.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""

Line = Callable[[str, str], None]  # what a process printed: its name, the line


def _tied(command: Sequence[str]) -> Sequence[str]:
    """The command, ended with its parent where the kernel can do that."""
    if sys.platform != "linux":
        return command
    return (sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command)


class Process:
    """A command with a name. `on_line` gets every line that it prints."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], on_line: Line) -> None:
        self.name = name
        self._command = command
        self._env = {**os.environ, **env}
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.tail: deque[str] = deque(maxlen=20)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            StackError: it was not started.
        """
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.pid

    async def start(self, stdin: bytes | None = None) -> None:
        """Starts it, in a session of its own: a Ctrl-C on the terminal reaches the supervisor alone."""
        self._process = await asyncio.create_subprocess_exec(
            *_tied(self._command),
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        if stdin is not None and self._process.stdin is not None:
            self._process.stdin.write(stdin)
            await self._process.stdin.drain()
            self._process.stdin.close()
        self._reader = asyncio.create_task(self._read(), name=f"output-{self.name}")

    async def wait(self) -> int:
        """Its exit code, once it has ended and all that it printed was read."""
        if self._process is None or self._reader is None:
            raise StackError(f"{self.name} was not started")
        code = await self._process.wait()
        await self._reader
        return code

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def kill(self) -> None:
        """Ends it at once, as a crash would, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self.wait()

    async def stop(self) -> None:
        """Asks it to end, and ends it if it does not."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
        await self.wait()

    async def _read(self) -> None:
        stream = self._process.stdout if self._process is not None else None
        while stream is not None and (line := await stream.readline()):
            text = line.decode(errors="replace").rstrip()
            self.tail.append(text)
            self._on_line(self.name, text)
