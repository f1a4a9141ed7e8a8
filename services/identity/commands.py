"""What an operator can do at the command line, beside serving. Each command says in one line what it did."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from identity.app import Parts, assemble
from identity.seeds import Seeds, sow
from identity.settings import Settings
from servicekit.errors import ServiceError
from servicekit.lifecycle import StartError

COMMANDS = {
    "migrate": "brings the schema up to date and makes the log and its keys",
    "seed": "adds the accounts and clients of a JSON file on standard input",
    "new-log": "ends the log and everything issued: the last step of restoring a backup",
    "rotate-keys": "retires the key that signs access tokens and activates the spare",
    "rotate-log-keys": "likewise for the key that signs the revocation log",
    "reseal-keys": "seals private keys under the newest of IDENTITY_SECRET_KEYS",
}


def parse(arguments: Sequence[str]) -> str:
    """The command, "serve" when none is given.

    Raises:
        SystemExit: unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m identity", description="Serves identity, or one command:")
    commands = parser.add_subparsers(dest="command")
    for name, does in COMMANDS.items():
        commands.add_parser(name, help=does)
    return parser.parse_args(arguments).command or "serve"


def run(command: str, settings: Settings) -> int:
    """Runs one of COMMANDS; the exit code."""
    try:
        asyncio.run(_run(command, settings))
    except (StartError, ServiceError) as error:
        sys.stderr.write(f"{command} failed: {error}\n")
        return 1
    except ValidationError as error:
        sys.stderr.write(f"{command} failed: {error.error_count()} faults in the file, the first: ")
        first = error.errors(include_input=False)[0]
        sys.stderr.write(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}\n")
        return 1
    return 0


async def _run(command: str, settings: Settings) -> None:
    parts = assemble(settings)
    try:
        await parts.found()
        sys.stdout.write(await _done(command, parts) + "\n")
    finally:
        await parts.close()


async def _done(command: str, parts: Parts) -> str:
    administration = parts.administration
    match command:
        case "seed":
            seeds = Seeds.model_validate_json(sys.stdin.read())
            added = await asyncio.to_thread(sow, parts.accounts, seeds, parts.passwords.hash_blocking)
            return f"{added} added"
        case "new-log":
            snapshot = await parts.replay.snapshot()
            return f"log {await administration.begin_new_log(snapshot.log)} begins; {snapshot.log} has ended"
        case "rotate-keys":
            return f"key {await administration.rotate_keys('access')} signs access tokens"
        case "rotate-log-keys":
            return f"key {await administration.rotate_keys('log')} signs the log"
        case "reseal-keys":
            return f"{await parts.database.run(parts.keyring.seal_anew)} keys sealed anew"
        case _:
            return "the schema is up to date"
