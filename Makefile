# make sweep   the digits study, from nothing
# make test    everything that .ci/run runs
# TORCH_INDEX=…  takes torch from another index, for instance a CUDA build's

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := sweeper tests benchmarks studies

.DEFAULT_GOAL := help
.PHONY: help sweep test lint types layers unit browser compose clock proxy slurm mariadb format clean

help:
	@grep '^# ' $(MAKEFILE_LIST) | sed 's/^# //'

sweep: .venv/ready
	$(BIN)/sweeper launch studies/digits.toml

test: lint types layers unit

lint: .venv/dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/dev
	$(BIN)/mypy

layers: .venv/dev
	$(BIN)/lint-imports

unit: .venv/dev browser compose clock proxy slurm mariadb
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term

format: .venv/dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# Reports are looked at in a real browser. Where one cannot be installed, those tests are skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	echo "no Chromium here: the tests that need a browser will be skipped"

# It reads docker-compose.yml as users' own does, and needs no Docker engine for that.
compose:
	@command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker-compose >/dev/null; } || \
	echo "no docker-compose here: the tests that need it will be skipped"

# It sets the clock of one worker an hour ahead.
clock:
	@command -v faketime >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq faketime >/dev/null; } || \
	echo "no faketime here: the tests that need it will be skipped"

# It stands before two processes of the service.
proxy:
	@command -v nginx >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light >/dev/null; } || \
	echo "no nginx here: the tests that need it will be skipped"

# A cluster of this machine alone runs studies.
slurm:
	@command -v slurmctld >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	slurmctld slurmd slurm-client munge >/dev/null; } || \
	echo "no Slurm here: the tests that need it will be skipped"

# The tests start a server of their own from it.
mariadb:
	@[ -n "$$SWEEPER_TEST_MYSQL_URL" ] || command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mariadb-server >/dev/null; } || \
	echo "no MariaDB here: the tests that need it will be skipped"

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
