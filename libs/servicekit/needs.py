"""What a service needs before it takes traffic, asked for once at the start.

Each question has a deadline and fails in one line that names the variable to look at, and never the password in it.
"""

import asyncio
from urllib.parse import urlsplit

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from rescind.redis_client import redis_client
from servicekit.database import Database, reason_unreachable
from servicekit.errors import ServiceError
from servicekit.lifecycle import StartError
from servicekit.migrations import migrate

PATIENCE = 3.0  # seconds that each of them may take to answer


async def migrated_database(database: Database, url: str, package: str, *, variable: str) -> None:
    """The database answers and has the newest schema.

    Raises:
        StartError: it does not.
    """
    try:
        await asyncio.to_thread(database.ping)
        await asyncio.to_thread(migrate, url, package)
    except (ServiceError, SQLAlchemyError) as error:
        raise StartError(f"no database at {place(url)} ({variable}): {reason_unreachable(error)}") from error


async def answering_redis(url: str, *, variable: str = "RESCIND_REDIS_URL") -> None:
    """Redis answers PING.

    Raises:
        StartError: it does not, or not within PATIENCE.
    """
    client = redis_client(url, timeout=PATIENCE, connect_timeout=PATIENCE)
    try:
        async with asyncio.timeout(PATIENCE):
            await client.ping()
    except (RedisError, OSError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        raise StartError(f"no Redis at {place(url)} ({variable}): {reason}") from error
    finally:
        await client.aclose()


def place(url: str) -> str:
    """Where a URL points, without user, password and query."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return f"{parts.scheme}://{parts.path}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
