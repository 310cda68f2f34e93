# Two commands do everything from a fresh clone: `make simulate` and `make test`.
.DEFAULT_GOAL := help
PYTHON ?= python3
# Test files that run at the same time.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# No telemetry from anything that we start.
export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help install simulate smoke study test test-deployment bench bench-gpu check docs format clean

help: ## List these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

# Installed anew whenever pyproject.toml is newer than the marker.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Set up the environment, for a hospital or the centre

simulate: $(VENV)/.installed ## Make the phantom cohort, train six hospitals, print the table (ARGS="..." is passed on)
	@$(BIN)/python simulation/run.py $(ARGS)

smoke: $(VENV)/.installed ## The same in about a minute, to see that it runs
	@$(BIN)/python simulation/run.py --preset smoke $(ARGS)

study: $(VENV)/.installed ## Every method of the paper over folds and seeds (hours; ARGS="..." is passed on)
	@$(BIN)/python simulation/study.py $(ARGS)

test: $(VENV)/.installed ## Run every test, with coverage of the rooms
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --fail-under=90

test-deployment: $(VENV)/.installed ## A real SuperLink and hospitals on this machine: equality, kills, outages, attacks
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/deployment $(ARGS)

bench: $(VENV)/.installed ## Speed and memory beside peers; writes docs/results/benchmarks.md (ARGS="--only scores")
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-gpu: $(VENV)/.installed ## The training step on this machine's GPU (ARGS=--memory: what a card must hold)
	@$(BIN)/python benchmarks/gpu.py $(ARGS)

check: $(VENV)/.installed ## What CI holds: lint, format, types, spelling, secrets, file sizes
	@$(BIN)/pre-commit run --all-files $(ARGS)

docs: $(VENV)/.installed ## Build the documentation into site/, without the network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

format: $(VENV)/.installed ## Format and mend what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove the environment, caches and build files; results in runs/ stay
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
