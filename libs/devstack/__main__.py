"""`python -m devstack run` and `python -m devstack demo`."""

from devstack.cli import app

if __name__ == "__main__":
    app()
