# make sweep       install sweeper into .venv and run the digits study
# make test        run everything that .ci/run runs: lint, types, layers and all tests
#                    FAST=1    skip the slow tests; takes about five minutes
#                    TOOLS=no  do not install Debian packages; skip the tests that need them
# make coverage    run all tests with the coverage of each module
# make soak        run the tests that start and kill processes, with many more rounds
# make docs        build the documentation in site/
# make bench       run every benchmark in its quick mode
# make format      format the code with ruff and apply its fixes
# make clean       remove .venv and all caches
# TORCH_INDEX=URL  install torch from another index, for example one with CUDA builds

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# All tests: more jobs than cores, because many of them wait for processes and servers.
JOBS ?= $(if $(FAST),2,3)
TOOLS ?= yes
SOURCES := sweeper tests benchmarks studies docs/hooks.py

.DEFAULT_GOAL := help
.PHONY: help sweep test lint types layers unit coverage soak docs bench tools format clean

help:
	@sed -n '/^$$/q;s/^# //p' Makefile

sweep: .venv/ready
	$(BIN)/sweeper launch studies/digits.toml

test: lint types layers unit

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

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
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; select one with PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

# Install torch first. Otherwise packages that depend on it select a build with gigabytes of CUDA.
# The extra `serve` includes `sweep`.
.venv/ready: .venv/made pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --quiet -c constraints.txt -e ".[serve]"
	@touch $@

# timm without torchvision, which may not have a build for this torch; the tests use a stand-in.
.venv/dev: .venv/ready
	$(PIP) install --quiet -c constraints.txt -e ".[all,huggingface,lightning]" --group dev
	$(PIP) install --quiet -c constraints.txt --no-deps timm
	@touch $@

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
