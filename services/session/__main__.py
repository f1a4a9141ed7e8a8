"""`python -m session`: the session service, until SIGTERM."""

import servicekit.collector  # before the rest
from servicekit.lifecycle import main
from session.app import NAME, build
from session.settings import Settings

if __name__ == "__main__":
    servicekit.collector.imported()
    main(NAME, Settings, build)
