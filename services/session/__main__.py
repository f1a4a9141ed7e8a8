"""`python -m session`: the session service, until SIGTERM."""

from servicekit.lifecycle import main
from session.app import NAME, build
from session.settings import Settings

if __name__ == "__main__":
    main(NAME, Settings, build)
