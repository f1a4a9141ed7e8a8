"""`python -m console`: the same as `rescind`."""

from console.cli import app

if __name__ == "__main__":
    app()
