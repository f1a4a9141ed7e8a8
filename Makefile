# Everything that is done here by hand or by CI. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TARGET ?= auto
unexport PYTHONDONTWRITEBYTECODE # every process that starts would compile its service anew

.DEFAULT_GOAL := help
.PHONY: help setup run mail demo test check format bench up down proto lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## the virtual environment, with every dependency at its pinned version (other targets do this first)

# Made anew when a pinned version changes. The stamp is written last, so a broken installation is not taken for a whole one.
$(READY): locks/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Rescind needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV): about a minute, once."
	@$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed
	@{ $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r locks/dev.lock \
	  && touch $(VENV)/.installed; } \
	  | awk '/^(Collecting|Installing)/ { printf "\r\033[K  %s", substr($$0, 1, 70); fflush() } END { print "" }'
	@test -e $(VENV)/.installed # a pipe's exit status is awk's
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

run: $(READY) ## the whole system on this machine, seeded, without Docker; stays up until Ctrl-C
	@$(BIN)/python -m devstack run

mail: $(READY) ## the mail that the embedded system has sent; N=1 shows the newest
	@$(BIN)/python -m devstack mail $(N)

demo: $(READY) ## the story: sign in, revoke in six ways, break things; TARGET=embedded|compose forces where
	@$(BIN)/python -m devstack demo --target $(TARGET)

test: $(READY) ## all tests; says what it skipped for want of Docker, a browser or Node
	@$(BIN)/python -m pytest --numprocesses 3 --max-worker-restart 0 --dist loadscope --no-loadscope-reorder

check: $(READY) ## format, lint, types, contracts, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint proto
	$(BIN)/python tools/proto.py --check
	$(BIN)/lint-imports
	$(BIN)/python tools/compliance.py --check
	@! grep -nE 'https?://|--(extra-)?index-url|--find-links' locks/*.lock || { echo "a lock file names an index host"; exit 1; }

format: $(READY) ## puts the code into its one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(READY) ## speed and memory, as ratios to a peer in the same run; writes docs/benchmarks.md
	@$(BIN)/python -m bench

up: ## the stack under docker compose, seeded, at the same addresses
	docker compose up --build --detach --wait
	@echo "open http://localhost:8000   identity http://localhost:8001   orders http://localhost:8002   notifications http://localhost:8003   Try: make demo"

down: ## stops the compose stack and forgets its data
	docker compose down --volumes --remove-orphans

proto: $(READY) ## writes libs/contracts anew from proto/
	$(BIN)/python tools/proto.py

lock: ## pins the newest versions that pyproject.toml allows (needs uv)
	tools/lock.sh

clean: ## removes the virtual environment and the embedded run's data
	rm -rf $(VENV) .rescind
