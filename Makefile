# Two commands do everything: `make run` and `make test`. Each sets up what it needs first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 3000
HOMES ?= .osclms
NOTEBOOKS ?= notebooks/*.py
RUNS ?= 2000
QUALITY_HOME ?= .osclms-quality
QUALITY ?= --tune-until 2017-11-01 --until 2017-12-01 --end 2018-01-01 --train
export OSCLMS_HOME ?= .osclms
export MLFLOW_DISABLE_TELEMETRY := true
export BENTOML_DO_NOT_TRACK := True

.PHONY: run setup test test-long lint bench bench-cold bench-replenishment bench-quality bench-serving bench-lifecycle bench-proof bench-choose likeness notebooks clean help

help:                 ## what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: .venv/.ready   ## prepare .venv (and Chromium, by apt, where it may)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --compile-bytecode --constraint constraints.txt --editable '.[training,demo,notebooks,dev]'
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

likeness: setup       ## figures of the shops in HOMES side by side, as a generated one beside the demo shop
	$(BIN)/python -m benchmarks.likeness $(HOMES)

bench-serving: setup  ## measure the service over sockets, of OSCLMS_HOME; minutes, and wrk (apt-get install wrk)
	$(BIN)/python -m benchmarks.serving

bench-replenishment: setup  ## measure due dates on the demo data; half a minute
	$(BIN)/python -m benchmarks.replenishment --home $(OSCLMS_HOME) --write docs/replenishment.md

bench-lifecycle: setup  ## measure messages, on a shop made up for it, and a daily run of OSCLMS_HOME; a minute
	$(BIN)/python -m benchmarks.lifecycle
	$(BIN)/python -m benchmarks.runs --home $(OSCLMS_HOME)

bench-proof: setup    ## whether what osclms lift says is true, in worlds whose truth is known; an hour, or RUNS=100
	$(BIN)/python -m benchmarks.proof --runs $(RUNS) --write docs/measuring.md

notebooks: setup      ## run the notebooks on the home and write their .ipynb; some minutes
	$(BIN)/python -m benchmarks.notebooks $(NOTEBOOKS)

bench-choose: setup   ## measure what the learned choice loses by learning, in made-up shops; 20 minutes and more
	$(BIN)/python -m benchmarks.regret --write docs/choosing.md

bench-quality: setup .venv-rivals/.ready  ## measure quality beside libraries; QUALITY_HOME and QUALITY for other data
	@test -d $(QUALITY_HOME)/history || $(BIN)/osclms load completejourney --home $(QUALITY_HOME)
	$(BIN)/python -m benchmarks.quality --home $(QUALITY_HOME) $(QUALITY)

.venv-rivals/.ready: benchmarks/rivals.txt | .venv/.ready
	$(PYTHON) -m venv .venv-rivals
	VIRTUAL_ENV=.venv-rivals $(BIN)/uv pip install --requirement benchmarks/rivals.txt
	@touch $@

clean:                ## remove the environments and the state
	rm -rf .venv .venv-rivals .osclms .osclms-quality
