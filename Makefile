# Every target builds .venv first if it has to, so each works as the first command on a fresh clone.
.DEFAULT_GOAL := help
.PHONY: help install check fix test test-integration test-all test-browser demo bench clean

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

help:  ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

install: .venv/installed  ## Create .venv with tokenq and its tools, at the versions in constraints.txt

# torch comes first and alone, so that pip takes a CPU build where one is offered locally.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "tokenq needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[dev]'
	@touch $@

check: install  ## Format, lint, types and import contracts; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: install  ## Format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: install  ## Default tests: no network, no GPU, two to three minutes on two cores
	$(BIN)/python -m pytest -q -n auto

test-integration: install  ## Tests that train, serve or run commands as a whole: minutes more
	$(BIN)/python -m pytest -q -n auto -m "integration and not slow and not gpu and not hub and not browser"

test-all: install  ## All of these, and slow tests too
	$(BIN)/python -m pytest -q -n auto -m "not gpu and not hub and not browser"

test-browser: install  ## The page in a headless Chromium (Debian: apt-get install chromium), skipped where there is none
	$(BIN)/python -m pytest -q -m browser

demo: install  ## Train a tiny model on CPU, offline, into runs/demo (replaced each time)
	rm -rf runs/demo
	$(BIN)/tokenq demo --output runs/demo

bench: install  ## Speed and memory beside TRL, quick; ARGS="--model FOLDER --data hh_harmless.jsonl.gz" for the real one
	$(PIP) -e '.[dev,bench]'
	$(BIN)/python -m bench $(ARGS)

clean:  ## Remove .venv and caches; runs/ stays
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
