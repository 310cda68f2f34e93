# Two commands do everything from a fresh clone: `make simulate` and `make test`.
.DEFAULT_GOAL := help
PYTHON ?= python3
# Test files that run at the same time.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# Whose environment: dev holds simulation, and simulation holds site and centre.
ROLES := site centre simulation dev
ROLE ?= dev
HELD_simulation := site centre
HELD_dev := site centre simulation
# LOCK=no: the newest versions that pyproject.toml allows, instead of those of requirements/.
LOCK ?= yes
# No telemetry from anything that we start.
export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help install lock simulate smoke study test test-deployment bench bench-gpu bench-load check docs format clean

help: ## List these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

# Installed anew whenever pyproject.toml or the role's lock is newer than its marker.  The second
# step finds all but torch and our own code in place.
$(ROLES:%=$(VENV)/.%): $(VENV)/.%: pyproject.toml requirements/%.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing for $* into $(VENV) (some minutes the first time)"
	@test $(LOCK) = no || $(BIN)/python -m pip install --quiet --no-deps --require-hashes \
		--requirement requirements/$*.lock \
		|| { echo "error: the locked versions cannot be installed here; LOCK=no takes others"; exit 1; }
	@$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $(foreach role,$* $(HELD_$*),$(VENV)/.$(role))

install: $(VENV)/.$(ROLE) ## Set up the environment of ROLE=site, centre, simulation or dev (all)

lock: $(VENV)/.dev ## Write requirements/*.lock anew from pyproject.toml (ARGS=--upgrade: newest versions)
	@for role in dev simulation centre site; do \
		test $$role = dev || cp requirements/dev.lock requirements/$$role.lock; \
		echo torch | $(BIN)/uv pip compile pyproject.toml requirements/torch.in --extra $$role \
			--excludes /dev/stdin --universal --python-version 3.11 --generate-hashes --quiet \
			--custom-compile-command "make lock" --output-file requirements/$$role.lock $(ARGS) || exit 1; \
	done

simulate: $(VENV)/.simulation ## Make the phantom cohort, train six hospitals, print the table (ARGS="..." is passed on)
	@$(BIN)/asdnet-sim run $(ARGS)

smoke: $(VENV)/.simulation ## The same in about a minute, to see that it runs
	@$(BIN)/asdnet-sim run --preset smoke $(ARGS)

study: $(VENV)/.simulation ## Every method of the paper over folds and seeds (hours; ARGS="..." is passed on)
	@$(BIN)/asdnet-sim tables $(ARGS)

test: $(VENV)/.dev ## Run every test, with coverage of the rooms
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --fail-under=90

test-deployment: $(VENV)/.dev ## A real SuperLink and hospitals on this machine: equality, kills, outages, attacks
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/deployment $(ARGS)

bench: $(VENV)/.dev ## Speed and memory beside peers; writes docs/results/benchmarks.md (ARGS="--only scores")
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-gpu: $(VENV)/.dev ## The training step on this machine's GPU (ARGS=--memory: what a card must hold)
	@$(BIN)/python benchmarks/gpu.py $(ARGS)

bench-load: $(VENV)/.dev ## 20 light sites against one SuperLink for an hour (ARGS="--minutes 15 --csv FILE")
	@$(BIN)/python benchmarks/centre_load.py $(ARGS)

check: $(VENV)/.dev ## What CI holds: lint, format, types, spelling, secrets, file sizes
	@$(BIN)/pre-commit run --all-files $(ARGS)

docs: $(VENV)/.dev ## Build the documentation into site/, without the network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

format: $(VENV)/.dev ## Format and mend what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove the environment, caches and build files; results in runs/ stay
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
