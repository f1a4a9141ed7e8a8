"""Everything identity reads from its environment, with its defaults. Nothing else reads the environment."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from identity.federation.providers import parse_providers
from servicekit.mail import MailFrom, MailUrl
from servicekit.settings import CommonSettings, DatabaseUrl, HttpUrl, Networks, Port, RedisUrl, SecretKeys


def _whole_providers(value: SecretStr) -> SecretStr:
    parse_providers(value.get_secret_value())
    return value


class Settings(CommonSettings):
    """Times are seconds where the name does not say otherwise."""

    issuer: Annotated[HttpUrl, Field(validation_alias="RESCIND_ISSUER")] = "http://localhost:8001"
    redis_url: Annotated[RedisUrl, Field(validation_alias="RESCIND_REDIS_URL")]

    database_url: Annotated[DatabaseUrl, Field(validation_alias="IDENTITY_DATABASE_URL")]
    # `id:base64,...` of 32 bytes each, newest first: put a new one in front to rotate. Seals private keys, derives
    # refresh successors, signs forms.
    secret_keys: Annotated[SecretKeys, Field(validation_alias="IDENTITY_SECRET_KEYS")]

    # Who else vouches for people (identity.federation.providers).
    providers: Annotated[SecretStr, AfterValidator(_whole_providers), Field(validation_alias="IDENTITY_PROVIDERS")] = (
        SecretStr("[]")
    )
    # Without it nobody can sign up or reset a password here, and nothing else is different.
    mail_url: Annotated[MailUrl | None, Field(validation_alias="RESCIND_MAIL_URL")] = None
    mail_from: Annotated[MailFrom, Field(validation_alias="RESCIND_MAIL_FROM")] = "Rescind <no-reply@localhost>"

    http_host: Annotated[str, Field(validation_alias="IDENTITY_HTTP_HOST")] = "127.0.0.1"
    http_port: Annotated[Port, Field(validation_alias="IDENTITY_HTTP_PORT")] = 8001
    grpc_host: Annotated[str, Field(validation_alias="IDENTITY_GRPC_HOST")] = "127.0.0.1"
    grpc_port: Annotated[Port, Field(validation_alias="IDENTITY_GRPC_PORT")] = 9001
    metrics_host: Annotated[str, Field(validation_alias="IDENTITY_METRICS_HOST")] = "127.0.0.1"
    metrics_port: Annotated[Port, Field(validation_alias="IDENTITY_METRICS_PORT")] = 8101

    access_token_life: Annotated[int, Field(ge=10, le=3600, validation_alias="IDENTITY_ACCESS_TOKEN_LIFE")] = 900
    code_life: Annotated[int, Field(ge=5, le=60, validation_alias="IDENTITY_CODE_LIFE")] = 60
    session_life: Annotated[int, Field(ge=60, validation_alias="IDENTITY_SESSION_LIFE")] = 12 * 3600
    offline_life: Annotated[int, Field(ge=60, validation_alias="IDENTITY_OFFLINE_LIFE")] = 30 * 86400
    # How long a device waits for its person (RFC 8628).
    device_code_life: Annotated[int, Field(ge=60, le=1800, validation_alias="IDENTITY_DEVICE_CODE_LIFE")] = 600
    # How long ago an administrator may have signed in who changes something, on the pages and over gRPC.
    admin_auth_age: Annotated[int, Field(ge=30, le=86400, validation_alias="IDENTITY_ADMIN_AUTH_AGE")] = 600
    refresh_retry_window: Annotated[int, Field(ge=0, le=60, validation_alias="IDENTITY_REFRESH_RETRY_WINDOW")] = 10
    # How long a verifier may go on accepting after `exp`; never less than the verifiers' own leeway.
    leeway: Annotated[int, Field(ge=5, le=60, validation_alias="IDENTITY_LEEWAY")] = 5
    # A planned rotation waits until the spare has been in the JWKS for this long, so that every cache holds it.
    spare_age: Annotated[int, Field(ge=0, validation_alias="IDENTITY_SPARE_AGE")] = 30
    # Over this many milliseconds an acknowledgement no longer waits for Redis; the next tick publishes then.
    publish_wait_ms: Annotated[int, Field(ge=0, le=5000, validation_alias="IDENTITY_PUBLISH_WAIT_MS")] = 250
    # The networks of our own proxies, "10.0.0.0/8, fd00::/8": what these say in X-Forwarded-For is believed, and
    # nobody else's. It is used to tell people where they are signed in; no decision rests on it.
    trusted_proxies: Annotated[Networks, Field(validation_alias="IDENTITY_TRUSTED_PROXIES")] = ""
    # Hosts of our own network, "session, billing", that logout tokens may be sent to over plain http. Loopback may
    # always, everything else needs https.
    backchannel_http_hosts: Annotated[str, Field(validation_alias="IDENTITY_BACKCHANNEL_HTTP_HOSTS")] = ""
