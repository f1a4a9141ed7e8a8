"""What a million entries take, weighed in a process of its own, in two ways.

`tracemalloc` counts what Python asked for; the resident set counts what the system gave, so also what the allocator
keeps back. Ids are made one by one and forgotten, as they are when they come in messages.
"""

import asyncio
import resource
import secrets
import sys
import tracemalloc
from pathlib import Path

from bench.figures import Figure, Say, Scale, Target, counted
from rescind import Denylist
from rescind.messages import Entry

_TARGET = 120  # bytes per `token` entry
_STATM = Path("/proc/self/statm")


async def memory(scale: Scale, say: Say) -> list[Figure]:
    """Bytes for each `token` entry."""
    figures = []
    for how, name in (("traced", "tracemalloc"), ("resident", "resident set")):
        say(f"weighing {counted(scale.weighed)} entries by {name}")
        weighed = await _weighed_elsewhere(how, scale.weighed)
        if weighed is None:
            continue  # no /proc on this system
        target = Target(f"≤ {_TARGET} bytes", weighed <= _TARGET)
        bare = "a set of as many str ids"
        peer = await _weighed_elsewhere(f"{how}-set", scale.weighed)
        what = f"an entry among {counted(scale.weighed)}, by {name}"
        figures.append(
            Figure(what, f"{weighed:.0f} bytes", f"{bare}, {peer or 0:.0f} bytes", weighed / (peer or 1), target)
        )
    return figures


async def _weighed_elsewhere(how: str, number: int) -> float | None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.memory", how, str(number), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"weighing ended with {process.returncode}")
    text = out.decode().strip()
    return None if text == "unknown" else float(text)


def _weigh(how: str, number: int) -> float | None:
    traced = how.startswith("traced")
    if traced:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
    elif not _STATM.exists():
        return None
    else:
        before = _resident()
    held = _ids(number) if how.endswith("-set") else _denylist(number)
    after = tracemalloc.get_traced_memory()[0] if traced else _resident()
    if len(held) != number:
        raise RuntimeError("ids came twice")
    return (after - before) / number


def _denylist(number: int) -> Denylist:
    denylist = Denylist()
    for pos in range(1, number + 1):
        denylist.add(pos, Entry("token", secrets.token_urlsafe(16)), "BENCH")
    return denylist


def _ids(number: int) -> set[str]:
    return {secrets.token_urlsafe(16) for _ in range(number)}


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    found = _weigh(sys.argv[1], int(sys.argv[2]))
    print("unknown" if found is None else found)
