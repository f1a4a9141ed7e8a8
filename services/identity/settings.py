"""Everything identity reads from its environment, with its defaults. Nothing else reads the environment."""

import base64
import binascii
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_KEY_BYTES = 32


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
        if len(key) != _KEY_BYTES:
            raise ValueError(f"key {key_id!r} has {len(key)} bytes instead of {_KEY_BYTES}")
        keys.append((key_id, key))
    if len({key_id for key_id, _ in keys}) != len(keys):
        raise ValueError("two keys have the same id")
    return tuple(keys)


def _whole_keys(value: SecretStr) -> SecretStr:
    parse_secret_keys(value.get_secret_value())
    return value


class Settings(BaseSettings):
    """Times are seconds."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    issuer: str = Field(default="http://localhost:8001", validation_alias="RESCIND_ISSUER")
    redis_url: SecretStr = Field(default=SecretStr("redis://localhost:6379/0"), validation_alias="RESCIND_REDIS_URL")
    development: bool = Field(default=False, validation_alias="RESCIND_DEVELOPMENT")

    database_url: SecretStr = Field(validation_alias="IDENTITY_DATABASE_URL")
    # Encrypts private keys and derives refresh successors. A list, newest first: put a new one in front to rotate.
    secret_keys: Annotated[SecretStr, AfterValidator(_whole_keys)] = Field(validation_alias="IDENTITY_SECRET_KEYS")

    http_host: str = Field(default="127.0.0.1", validation_alias="IDENTITY_HTTP_HOST")
    http_port: int = Field(default=8001, ge=0, le=65535, validation_alias="IDENTITY_HTTP_PORT")
    grpc_host: str = Field(default="127.0.0.1", validation_alias="IDENTITY_GRPC_HOST")
    grpc_port: int = Field(default=9001, ge=0, le=65535, validation_alias="IDENTITY_GRPC_PORT")
    metrics_host: str = Field(default="127.0.0.1", validation_alias="IDENTITY_METRICS_HOST")
    metrics_port: int = Field(default=8101, ge=0, le=65535, validation_alias="IDENTITY_METRICS_PORT")

    access_token_life: int = Field(default=900, ge=10, le=3600, validation_alias="IDENTITY_ACCESS_TOKEN_LIFE")
    code_life: int = Field(default=60, ge=5, le=60, validation_alias="IDENTITY_CODE_LIFE")
    session_life: int = Field(default=12 * 3600, ge=60, validation_alias="IDENTITY_SESSION_LIFE")
    offline_life: int = Field(default=30 * 86400, ge=60, validation_alias="IDENTITY_OFFLINE_LIFE")
    refresh_retry_window: int = Field(default=10, ge=0, le=60, validation_alias="IDENTITY_REFRESH_RETRY_WINDOW")
    # How long a verifier may go on accepting after `exp`; must not be less than the verifiers' own leeway.
    leeway: int = Field(default=5, ge=0, le=60, validation_alias="IDENTITY_LEEWAY")
    # A planned rotation waits until the spare has been in the JWKS for this long, so that every cache holds it.
    spare_age: int = Field(default=30, ge=0, validation_alias="IDENTITY_SPARE_AGE")
    # Over this many milliseconds an acknowledgement no longer waits for Redis; the relay publishes then.
    publish_wait_ms: int = Field(default=250, ge=0, le=5000, validation_alias="IDENTITY_PUBLISH_WAIT_MS")

    @model_validator(mode="after")
    def _issuer_is_exact(self) -> Self:
        if not self.issuer.startswith(("http://", "https://")) or self.issuer.endswith("/"):
            raise ValueError("RESCIND_ISSUER must be an http(s) URL without a slash at its end")
        return self
