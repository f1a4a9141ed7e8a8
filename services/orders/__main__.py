"""`python -m orders`: serves until SIGTERM, or runs one command (`--help` lists them)."""

import sys

import servicekit.collector  # before the rest
from orders import commands
from orders.app import NAME, build
from orders.settings import DatabaseSettings, Settings
from servicekit.lifecycle import main
from servicekit.settings import load
from servicekit.telemetry import set_up_logging

if __name__ == "__main__":
    servicekit.collector.imported()
    command = commands.parse(sys.argv[1:])
    if command == "serve":
        main(NAME, Settings, build)
    else:
        settings = load(DatabaseSettings)
        set_up_logging(NAME, level=settings.log_level)
        raise SystemExit(commands.run(command, settings))
