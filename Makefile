# The two commands of the README are `make run` and `make test`. Each makes .venv and installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := src tests benchmarks

.PHONY: run quick test slow nets zoo zoo-here check format lint types floors clean

run: $(VENV)/.run  ## train several methods side by side on real data, then open the report
	$(BIN)/skipback compare digits --out runs/digits --open

quick: $(VENV)/.test  ## under a minute: the contract on a few networks, identities, oracles
	$(BIN)/python -m pytest -n 2 -m 'quick and not slow' tests/core

test: $(VENV)/.test  ## all but the tiers of their own command
	$(BIN)/python -m pytest -n 2

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

nets: $(VENV)/.test  ## prove 20,000 generated networks; writes results/generated.json
	cd tests && ../$(BIN)/python -m generated --networks 20000

zoo:  ## attach real architectures of other libraries; an environment of its own, as their pins are many
	$(MAKE) VENV=.venv-zoo zoo-here

zoo-here: $(VENV)/.zoo
	$(BIN)/python -m pytest tests/zoo -m zoo -n 2 --max-worker-restart 99 --tb=line --zoo-table results/zoo.json

check: $(VENV)/.check format lint types floors test  ## what CI runs

format: $(VENV)/.check
	$(BIN)/ruff format --check $(SOURCES)

lint: $(VENV)/.check
	$(BIN)/ruff check --no-cache $(SOURCES)

types: $(VENV)/.check
	$(BIN)/mypy

floors: $(VENV)/.check  ## imports point down
	$(BIN)/lint-imports

clean:  ## also the runs
	rm -rf $(VENV) .venv-zoo runs dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# Stamps: an install is repeated only when the pins or the dependencies change.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skipback needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python constraints.txt pyproject.toml
	$(PIP) -e '.[lab]'
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e '.[lab,test]'
	touch $@

$(VENV)/.zoo: $(VENV)/.test
	$(PIP) -e '.[lab,test,zoo]'
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(PIP) -e '.[lab,test,dev]'
	touch $@
