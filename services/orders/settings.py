"""Everything orders reads from its environment, with its defaults. Nothing else reads the environment."""

from typing import Annotated

from pydantic import Field, SecretStr

from rescind import BOUNDED, STRICT
from servicekit.settings import CommonSettings, DatabaseUrl, Port
from servicekit.verification import StalenessSetting, VerifierSettings


class DatabaseSettings(CommonSettings):
    """What a command needs."""

    database_url: Annotated[DatabaseUrl, Field(validation_alias="ORDERS_DATABASE_URL")]


class Settings(VerifierSettings, DatabaseSettings):
    """Staleness is `strict`, `best_effort`, or how many seconds after it was last fresh this service goes on accepting
    when identity does not answer.
    """

    # Of the client "orders": to ask identity for a replay, and about a token when not fresh.
    client_secret: Annotated[SecretStr, Field(validation_alias="ORDERS_CLIENT_SECRET")]

    http_host: Annotated[str, Field(validation_alias="ORDERS_HTTP_HOST")] = "127.0.0.1"
    http_port: Annotated[Port, Field(validation_alias="ORDERS_HTTP_PORT")] = 8002
    grpc_host: Annotated[str, Field(validation_alias="ORDERS_GRPC_HOST")] = "127.0.0.1"
    grpc_port: Annotated[Port, Field(validation_alias="ORDERS_GRPC_PORT")] = 9002
    metrics_host: Annotated[str, Field(validation_alias="ORDERS_METRICS_HOST")] = "127.0.0.1"
    metrics_port: Annotated[Port, Field(validation_alias="ORDERS_METRICS_PORT")] = 8102

    # Reading goes on for a token's whole life, writing for a minute: a wrongly accepted read shows what its holder
    # could see before, a wrongly accepted write stays.
    read_staleness: Annotated[StalenessSetting, Field(validation_alias="ORDERS_READ_STALENESS")] = BOUNDED(900)
    write_staleness: Annotated[StalenessSetting, Field(validation_alias="ORDERS_WRITE_STALENESS")] = BOUNDED(60)
    # Nothing an administrator does is urgent enough to be done by one who may have been dismissed.
    admin_staleness: Annotated[StalenessSetting, Field(validation_alias="ORDERS_ADMIN_STALENESS")] = STRICT
