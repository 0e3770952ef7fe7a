# `make help` lists the targets. Everything runs in .venv, which the first target makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install quickstart figures tables test test-slow lint layers types format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stoical needs Python 3.11 or newer; try: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) --upgrade pip
	@$(PIP_INSTALL) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	@$(PIP_INSTALL) --editable '.[mistral]'  # the default model's tokenizer, for a start without a network
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

install: $(VENV)/.base  ## make .venv with stoical in it

quickstart: $(VENV)/.base  ## data, two small models, their metrics and curves: about 10 minutes on 2 cores
	@$(BIN)/python -m examples.quickstart

figures: $(VENV)/.base  ## the papers' figures, of the files that runs wrote, to runs/figures
	@$(BIN)/python -m examples.results figures

tables: $(VENV)/.base  ## the papers' tables, of the files that runs wrote
	@$(BIN)/python -m examples.results tables

test: $(VENV)/.dev  ## the fast tests, offline
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest --numprocesses 2 --quiet

test-slow: $(VENV)/.dev  ## the slow tests: whole runs and many random cases
	@$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev layers  ## ruff: style and formatting; and the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

layers: $(VENV)/.base  ## who imports whom: levels, arrows against the order of the rooms, circles
	@$(BIN)/python -m tools.layers

types: $(VENV)/.dev  ## mypy, strict
	@$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the files as `lint` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.base  ## the benchmarks that need no GPU, as ratios: under 15 minutes on 2 cores
	@$(BIN)/python -m benchmarks

clean:  ## remove .venv and caches; data/ and runs/ stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build ./*.egg-info
