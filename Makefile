# make sweep   the digits study, from nothing
# make test    everything that .ci/run runs: lint, types, layers and all tests
#              FAST=1    without the slow tests, in under three minutes
#              TOOLS=no  without installing Debian packages; the tests that need them are skipped
# make coverage  all tests, with the coverage of each module
# make soak      the tests that start and kill processes, with many more rounds
# make bench     every benchmark in its quick mode
# TORCH_INDEX=…  takes torch from another index, for instance a CUDA build's

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# All tests: more jobs than cores, because many of them wait for processes and servers.
JOBS ?= $(if $(FAST),2,3)
TOOLS ?= yes
SOURCES := sweeper tests benchmarks studies

.DEFAULT_GOAL := help
.PHONY: help sweep test lint types layers unit coverage soak bench tools format clean

help:
	@sed -n '/^$$/q;s/^# //p' Makefile

sweep: .venv/ready
	$(BIN)/sweeper launch studies/digits.toml

test: lint types layers unit

bench: .venv/dev
	$(BIN)/python -m benchmarks

lint: .venv/dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/dev
	$(BIN)/mypy

layers: .venv/dev
	$(BIN)/lint-imports

unit: .venv/dev $(if $(FAST),,tools)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(if $(FAST),-m "not slow")

coverage: .venv/dev tools
	$(BIN)/pytest -n $(JOBS) --dist worksteal --cov --cov-report=term

soak: .venv/dev tools
	SWEEPER_SOAK=1 $(BIN)/pytest -n $(JOBS) --dist worksteal -m chaos

tools:
	@TOOLS=$(TOOLS) tests/support/tools.sh

format: .venv/dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

.venv/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

# torch first: whatever depends on it would otherwise choose the build, gigabytes of CUDA.
.venv/ready: .venv/made pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/ready
	$(PIP) install --quiet -c constraints.txt -e ".[postgresql,mysql,ray]" --group dev
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
