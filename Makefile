# `make up` runs the service; `make test` is everything that CI runs. Both work on a fresh Debian with python3 and make;
# as root they install Debian's packages that are missing, else they name them. `make tour` shows the main job on a
# sample, without the service.

PYTHON ?= python3
# Many tests wait for leases and time limits: more processes than cores.
JOBS ?= 4
DATAGUARDIAN_HOME ?= $(CURDIR)/.dataguardian
export DATAGUARDIAN_HOME

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --root-user-action=ignore

.PHONY: up tour test lint audit bench clean tools
.NOTPARALLEL:

up: .venv/.installed
	@exec $(BIN)/dataguardian up

tour: .venv/.installed
	@echo "DataGuardian, end to end:"
	@$(BIN)/python -m dataguardian.cli.tour $(DATAGUARDIAN_HOME)/tour

# The suite brings its own homes and servers; nothing of this environment may leak into it.
test: lint tools
	env -u DATAGUARDIAN_HOME -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n $(JOBS) --dist worksteal

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known weaknesses of what is installed; without a network it says so and does not fail.
audit: .venv/.installed-dev
	@.ci/audit $(BIN)

bench: .venv/.installed-dev
	@.ci/setup-tools zstd lz4 gzip tar setpriv:util-linux sha256sum:coreutils restic borg:borgbackup redis-server /usr/sbin/sshd:openssh-server
	$(BIN)/python bench/run.py
	$(BIN)/python bench/service.py

tools:
	@.ci/setup-tools zstd lz4 gzip tar age git sqlite3 openssl redis-server pg_ctlcluster:postgresql /usr/sbin/mariadbd:mariadb-server mariadb-dump:mariadb-client locale-gen:locales ps:procps mount getfattr:attr getfacl:acl setpriv:util-linux sha256sum:coreutils /usr/sbin/sshd:openssh-server

clean:
	rm -rf .venv .dataguardian bench/work dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

.venv/.python: .ci/setup-python
	@.ci/setup-python $(PYTHON)
	@touch $@

.venv/.installed: .venv/.python pyproject.toml
	@echo "installing DataGuardian into .venv"
	@$(PIP) -e '.[all]'
	@touch $@

.venv/.installed-dev: .venv/.python pyproject.toml
	@echo "installing DataGuardian and what its tests need into .venv"
	@$(PIP) -e '.[dev]'
	@touch $@ .venv/.installed
