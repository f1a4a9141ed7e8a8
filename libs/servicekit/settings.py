"""Settings from the environment: typed, read in one place, and all faults told at once.

A service declares one class; each field names its variable:

    class Settings(CommonSettings):
        database_url: Annotated[DatabaseUrl, Field(validation_alias="ORDERS_DATABASE_URL")]
        http_port: Annotated[Port, Field(validation_alias="ORDERS_HTTP_PORT")] = 8002

A variable that is set to nothing counts as missing, as compose files and shells leave them.
"""

import base64
import binascii
import os
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TextIO, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from servicekit.database import parse_url
from servicekit.visitor import parse_networks

KEY_BYTES = 32
EXIT_CODE = 2  # of a process whose settings are wrong

_NEVER_IN_URLS = re.compile(r"[\s?#@]")  # no query, no fragment, no password: others are shown these URLs

Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free one
S = TypeVar("S", bound=BaseSettings)


def _base_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if url.endswith("/"):
        raise ValueError("must not end with a slash")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0 and not _NEVER_IN_URLS.search(url)  # port: raises if it is none
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be http[s]://host[:port][/path]")
    return url


def _redis(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    try:
        pool: Any = ConnectionPool.from_url(text)  # in part untyped
        pool.make_connection()  # connects nothing, and finds options that are none
    except (TypeError, ValueError, RedisError):
        # From None: its text holds what stood where the port belongs, which may be half of a password.
        raise ValueError(
            "not a URL of a Redis: host, port or an option is wrong, or the password has / ? # unescaped (%2F %3F %23)"
        ) from None
    return url


def _database(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if not text.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    parse_url(text)
    return url


def parse_secret_keys(text: str) -> tuple[tuple[str, bytes], ...]:
    """`id:base64,id:base64`, newest first; each key 32 bytes.

    Raises:
        ValueError: says which key is wrong and why, without the key.
    """
    keys = []
    for number, item in enumerate(text.split(","), start=1):
        key_id, separator, encoded = item.strip().partition(":")
        if not separator or not key_id:
            raise ValueError(f"key {number} is not written as id:base64")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"key {key_id!r} is not base64") from None
        if len(key) != KEY_BYTES:
            raise ValueError(f"key {key_id!r} has {len(key)} bytes instead of {KEY_BYTES}")
        keys.append((key_id, key))
    if len({key_id for key_id, _ in keys}) != len(keys):
        raise ValueError("two keys have the same id")
    return tuple(keys)


def _whole_keys(value: SecretStr) -> SecretStr:
    parse_secret_keys(value.get_secret_value())
    return value


def _networks(value: str) -> str:
    parse_networks(value)
    return value


HttpUrl = Annotated[str, AfterValidator(_base_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis)]  # may hold a password, as the next
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database)]
Networks = Annotated[str, AfterValidator(_networks)]  # `servicekit.visitor.parse_networks` reads it
SecretKeys = Annotated[SecretStr, AfterValidator(_whole_keys)]  # `parse_secret_keys` reads it


class CommonSettings(BaseSettings):
    """What every service reads. `development` switches on reflection and API pages. It switches no check off."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True
    )

    development: Annotated[bool, Field(validation_alias="RESCIND_DEVELOPMENT")] = False
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(validation_alias="RESCIND_LOG_LEVEL")] = (
        "INFO"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment and nothing else: no file that happens to lie in the working folder decides."""
        return init_settings, env_settings


def load(settings: type[S], *, out: TextIO | None = None) -> S:
    """The settings, or the end of the process: one line for each fault, none with a value in it.

    Raises:
        SystemExit: with EXIT_CODE, when anything is wrong.
    """
    try:
        return settings()
    except ValidationError as error:
        # Not logged: the log is not set up yet, and its settings may be what is wrong.
        for line in faults(error, os.environ):
            print(line, file=out or sys.stderr)
        raise SystemExit(EXIT_CODE) from None


def faults(error: ValidationError, environment: Mapping[str, str]) -> list[str]:
    """Every fault in `error` as one line, sorted by variable. A value is never repeated: it may be a secret."""
    lines = set()
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in fault["loc"]) or "settings"
        if fault["type"] == "missing":
            state = "is set to nothing" if name in environment else "is not set"
            lines.add(f"{name} {state}")
        else:
            lines.add(f"{name}: {fault['msg'].removeprefix('Value error, ')}")
    return sorted(lines)
