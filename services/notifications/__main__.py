"""`python -m notifications`: serves until SIGTERM, or runs one command (`--help` lists them)."""

import sys

import servicekit.collector  # before the rest
from notifications import commands
from notifications.app import NAME, build
from notifications.settings import Settings
from servicekit.lifecycle import main

if __name__ == "__main__":
    servicekit.collector.imported()
    if len(sys.argv) > 1:
        commands.app(prog_name="python -m notifications")
    else:
        main(NAME, Settings, build)
