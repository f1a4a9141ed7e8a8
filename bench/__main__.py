"""`python -m bench`."""

import os

# Processes are started from one that speaks gRPC; they are other programs, so gRPC has nothing to carry over.
# It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from bench.cli import app

if __name__ == "__main__":
    app()
