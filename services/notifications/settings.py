"""Everything notifications reads from its environment, with its defaults. Nothing else reads the environment."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from rescind import BOUNDED
from servicekit.mail import MailSettings
from servicekit.settings import DatabaseUrl, HttpUrl, Port
from servicekit.verification import StalenessSetting, VerifierSettings


def _listed(value: object) -> object:
    return frozenset(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _origins(origins: frozenset[str]) -> frozenset[str]:
    if any(not origin.startswith(("http://", "https://")) or origin.count("/") != 2 for origin in origins):
        raise ValueError("must be origins joined by commas: https://app.example.com, without a path")
    return origins


Origins = Annotated[frozenset[str], NoDecode, BeforeValidator(_listed), AfterValidator(_origins)]


class Settings(VerifierSettings, MailSettings):
    """Staleness is `strict`, `best_effort`, or how many seconds after it was last fresh this service goes on accepting
    when identity does not answer.
    """

    database_url: Annotated[DatabaseUrl, Field(validation_alias="NOTIFICATIONS_DATABASE_URL")]
    # Of the client "notifications": to ask identity for a replay, about a token when not fresh, and for addresses.
    client_secret: Annotated[SecretStr, Field(validation_alias="NOTIFICATIONS_CLIENT_SECRET")]

    http_host: Annotated[str, Field(validation_alias="NOTIFICATIONS_HTTP_HOST")] = "127.0.0.1"
    http_port: Annotated[Port, Field(validation_alias="NOTIFICATIONS_HTTP_PORT")] = 8003
    grpc_host: Annotated[str, Field(validation_alias="NOTIFICATIONS_GRPC_HOST")] = "127.0.0.1"
    grpc_port: Annotated[Port, Field(validation_alias="NOTIFICATIONS_GRPC_PORT")] = 9003
    metrics_host: Annotated[str, Field(validation_alias="NOTIFICATIONS_METRICS_HOST")] = "127.0.0.1"
    metrics_port: Annotated[Port, Field(validation_alias="NOTIFICATIONS_METRICS_PORT")] = 8103

    # Reading, and a live stream, go on for a token's whole life; a preference that somebody else set stays set.
    read_staleness: Annotated[StalenessSetting, Field(validation_alias="NOTIFICATIONS_READ_STALENESS")] = BOUNDED(900)
    write_staleness: Annotated[StalenessSetting, Field(validation_alias="NOTIFICATIONS_WRITE_STALENESS")] = BOUNDED(60)

    # Browsers come through the session service, which sends no Origin; a page that connects by itself must be here.
    allowed_origins: Annotated[Origins, Field(validation_alias="NOTIFICATIONS_ALLOWED_ORIGINS")] = frozenset()
    # Where mails send people to look at their inbox.
    app_url: Annotated[HttpUrl, Field(validation_alias="NOTIFICATIONS_APP_URL")] = "http://localhost:8000"
