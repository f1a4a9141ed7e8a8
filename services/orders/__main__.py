"""`python -m orders`: the orders service, until SIGTERM."""

from orders.app import NAME, build
from orders.settings import Settings
from servicekit.lifecycle import main

if __name__ == "__main__":
    main(NAME, Settings, build)
