# Two commands do everything: `make run` and `make test`. Each sets up what it needs first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 3000
export OSCLMS_HOME ?= .osclms
export MLFLOW_DISABLE_TELEMETRY := true
export BENTOML_DO_NOT_TRACK := True

.PHONY: run setup test test-long lint bench bench-cold clean help

help:                 ## what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: .venv/.ready   ## prepare .venv (and Chromium, by apt, where it may)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --compile-bytecode --constraint constraints.txt --editable '.[training,demo,dev]'
	@bash docs/debian.sh
	@touch $@

run: setup            ## load the demo data, train, print one household's lists, serve
	$(BIN)/osclms demo --port $(PORT)

test: setup           ## every test but the long ones
	$(BIN)/python -m pytest -n 2 -m 'not long'

test-long: setup      ## the tests that take minutes
	$(BIN)/python -m pytest -m long

lint: setup           ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup          ## measure load, train, quality, bulk and latency on the demo data
	$(BIN)/python -m benchmarks.bench

bench-cold: setup     ## measure the lists of customers of whom one order is known, or three
	$(BIN)/python -m benchmarks.cold

clean:                ## remove the environment and the state
	rm -rf .venv .osclms
