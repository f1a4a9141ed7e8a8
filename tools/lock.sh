#!/usr/bin/env bash
# Writes locks/*.lock anew from pyproject.toml: every version pinned, every file hashed, no index host named.
# Maintainers only; needs uv. The images and `make` install from these files with pip.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header pyproject.toml "$@"; }
compile --extra identity --extra session --extra orders --extra notifications --extra cli --extra devstack --extra dev \
  -o locks/dev.lock
compile -c locks/dev.lock -o locks/base.lock
for service in identity session orders notifications; do
  compile --extra "$service" -c locks/dev.lock -o "locks/$service.lock"
done
