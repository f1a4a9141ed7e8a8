"""What ended, and what is told of it: handed to whoever must write something down in the same transaction.

`RevocationLog` calls its witnesses after it has locked and ended everything, and before it takes the log's counter. So
a witness sees each ending once, whoever caused it, and what it writes commits or vanishes with the ending.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.message import Message
from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that the person of an account should hear of; `message` is of contracts/identity/v1/events.proto."""

    subject: str  # usr_...
    message: Message


@dataclass(frozen=True, slots=True)
class Ending:
    """What one revocation has ended. Nothing that was over already is in it.

    `kind` is what was named: one session or several, one grant, or everything a person holds. `by` is the `sub` of
    whoever did it. `facts` are told with it, and also when nothing was left to end.
    """

    kind: Literal["session", "grant", "subject"]
    subject: str = ""
    cause: str = ""
    by: str = ""
    sessions: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = field(default=())


Witness = Callable[[Connection, Ending], None]
