"""`python -m identity`: serves, or runs one command (`--help` lists them)."""

import sys

import servicekit.collector  # before the rest
from identity import commands
from identity.app import build
from identity.settings import Settings
from servicekit.lifecycle import main
from servicekit.settings import load
from servicekit.telemetry import set_up_logging

if __name__ == "__main__":
    servicekit.collector.imported()
    command = commands.parse(sys.argv[1:])
    if command == "serve":
        main("identity", Settings, build)
    else:
        settings = load(Settings)
        set_up_logging("identity", level=settings.log_level)
        raise SystemExit(commands.run(command, settings))
