"""What an operator can do at the command line, beside serving. Each command says in one line what it did."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from orders import storage
from orders.app import NAME
from orders.domain import InvalidOrder, Money, Product, Sku, checked_product
from orders.settings import DatabaseSettings
from servicekit.database import Database
from servicekit.errors import ServiceError
from servicekit.lifecycle import StartError
from servicekit.needs import migrated_database

COMMANDS = {
    "migrate": "brings the schema up to date",
    "seed": "adds the products of a JSON file on standard input; those that exist stay as they are",
}


class _Seed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    sku: str
    name: str
    price: int  # minor units
    stock: int


class Catalogue(BaseModel):
    """A shop's file: every price is in one currency."""

    model_config = ConfigDict(extra="forbid", strict=True)

    currency: str
    products: list[_Seed]

    def checked(self) -> list[Product]:
        """The products.

        Raises:
            InvalidOrder: one of them cannot exist.
        """
        return [
            checked_product(Product(Sku(seed.sku), seed.name, Money(seed.price, self.currency), seed.stock))
            for seed in self.products
        ]


def parse(arguments: Sequence[str]) -> str:
    """The command, "serve" when none is given.

    Raises:
        SystemExit: unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m orders", description="Serves orders, or one command:")
    commands = parser.add_subparsers(dest="command")
    for name, does in COMMANDS.items():
        commands.add_parser(name, help=does)
    return parser.parse_args(arguments).command or "serve"


def run(command: str, settings: DatabaseSettings) -> int:
    """Runs one of COMMANDS; the exit code."""
    try:
        catalogue = Catalogue.model_validate_json(sys.stdin.read()).checked() if command == "seed" else []
        sys.stdout.write(asyncio.run(_run(catalogue, settings)) + "\n")
    except (StartError, ServiceError, InvalidOrder) as error:
        sys.stderr.write(f"{command} failed: {error}\n")
        return 1
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        sys.stderr.write(
            f"{command} failed: {error.error_count()} faults in the file, the first: {where}: {first['msg']}\n"
        )
        return 1
    return 0


async def _run(catalogue: Sequence[Product], settings: DatabaseSettings) -> str:
    url = settings.database_url.get_secret_value()
    database = Database(url)
    try:
        await migrated_database(database, url, NAME, variable="ORDERS_DATABASE_URL")
        added = await database.run(lambda tx: sum(storage.add_product(tx, product) for product in catalogue))
    finally:
        await database.dispose()
    return f"{added} added" if catalogue else "the schema is up to date"
