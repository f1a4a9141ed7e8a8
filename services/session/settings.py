"""Everything session reads from its environment, with its defaults. Nothing else reads the environment."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from rescind import BOUNDED, STRICT
from servicekit.settings import HttpUrl, Networks, Port, RedisUrl, SecretKeys
from servicekit.verification import StalenessSetting, VerifierSettings


def _words(value: object) -> object:
    return frozenset(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


Words = Annotated[frozenset[str], NoDecode, BeforeValidator(_words)]  # separated by commas, not JSON


class Settings(VerifierSettings):
    """Times are seconds. Staleness is `strict`, `best_effort`, or how many seconds after it was last fresh this service
    goes on accepting when identity does not answer.
    """

    # Where sessions are kept; the Redis of the revocations if it is not set. A Redis of its own keeps people signed in
    # when that one is lost.
    sessions_redis_url: Annotated[RedisUrl | None, Field(validation_alias="SESSION_REDIS_URL")] = None
    # `id:base64,...` of 32 bytes each, newest first: put a new one in front to rotate. Seals the tokens in sessions.
    secret_keys: Annotated[SecretKeys, Field(validation_alias="SESSION_SECRET_KEYS")]
    # Of the client "session": to ask identity for a replay, and about a token when not fresh.
    client_secret: Annotated[SecretStr, Field(validation_alias="SESSION_CLIENT_SECRET")]
    # The client that people sign in to. With a key (PEM) it authenticates by private_key_jwt where identity takes that.
    web_client_id: Annotated[str, Field(min_length=1, validation_alias="SESSION_WEB_CLIENT_ID")] = "web"
    web_client_secret: Annotated[SecretStr, Field(validation_alias="SESSION_WEB_CLIENT_SECRET")]
    client_key: Annotated[SecretStr, Field(validation_alias="SESSION_CLIENT_KEY")] = SecretStr("")
    # Where people open the app: cookies, redirects and the Origin check are for this name and no other.
    public_url: Annotated[HttpUrl, Field(validation_alias="SESSION_PUBLIC_URL")] = "http://localhost:8000"

    orders_url: Annotated[HttpUrl, Field(validation_alias="SESSION_ORDERS_URL")] = "http://localhost:8002"
    orders_grpc: Annotated[str, Field(min_length=3, validation_alias="SESSION_ORDERS_GRPC")] = "localhost:9002"
    notifications_grpc: Annotated[str, Field(min_length=3, validation_alias="SESSION_NOTIFICATIONS_GRPC")] = (
        "localhost:9003"
    )

    http_host: Annotated[str, Field(validation_alias="SESSION_HTTP_HOST")] = "127.0.0.1"
    http_port: Annotated[Port, Field(validation_alias="SESSION_HTTP_PORT")] = 8000
    grpc_host: Annotated[str, Field(validation_alias="SESSION_GRPC_HOST")] = "127.0.0.1"
    grpc_port: Annotated[Port, Field(validation_alias="SESSION_GRPC_PORT")] = 9000
    metrics_host: Annotated[str, Field(validation_alias="SESSION_METRICS_HOST")] = "127.0.0.1"
    metrics_port: Annotated[Port, Field(validation_alias="SESSION_METRICS_PORT")] = 8100

    idle_life: Annotated[int, Field(ge=60, validation_alias="SESSION_IDLE_LIFE")] = 1800
    life: Annotated[int, Field(ge=60, validation_alias="SESSION_LIFE")] = 12 * 3600
    reauthenticate_after: Annotated[int, Field(ge=0, validation_alias="SESSION_REAUTHENTICATE_AFTER")] = 600
    streams_per_session: Annotated[int, Field(ge=1, validation_alias="SESSION_STREAMS_PER_SESSION")] = 10
    streams: Annotated[int, Field(ge=1, validation_alias="SESSION_STREAMS")] = 5000
    # From one address, in any minute: sign-ins that are begun, and answers of identity's that come back.
    sign_ins: Annotated[int, Field(ge=1, validation_alias="SESSION_SIGN_INS")] = 300
    # The networks of our own proxies: what these say in X-Forwarded-For is believed, and nobody else's.
    trusted_proxies: Annotated[Networks, Field(validation_alias="SESSION_TRUSTED_PROXIES")] = ""
    # Clients that may present people's cookies to SessionsService.Resolve.
    resolvers: Annotated[Words, Field(validation_alias="SESSION_RESOLVERS")] = frozenset({"gateway"})
    # The control socket of `make run`: the control room's buttons break that run. Never set it elsewhere.
    fault_socket: Annotated[Path | None, Field(validation_alias="SESSION_FAULT_SOCKET")] = None

    read_staleness: Annotated[StalenessSetting, Field(validation_alias="SESSION_READ_STALENESS")] = BOUNDED(900)
    write_staleness: Annotated[StalenessSetting, Field(validation_alias="SESSION_WRITE_STALENESS")] = BOUNDED(60)
    admin_staleness: Annotated[StalenessSetting, Field(validation_alias="SESSION_ADMIN_STALENESS")] = STRICT
