# `make` lists what can be done. Everything is installed into .venv, from the lock files.
# Kept to what GNU make 3.81 knows (macOS), and to relative paths (the checkout's may have spaces).

VENV   := .venv
PY     := $(VENV)/bin/python
# Which Python the set-up uses; empty: the first of the usual names that is new enough.
PYTHON ?=
# Passed on to pytest: make test PYTEST_ARGS="-k audit -x"
PYTEST_ARGS ?=
# How many pytest workers; `auto` is one per core.
WORKERS ?= auto
# Passed on to uv: make lock LOCK_ARGS=--upgrade, or LOCK_ARGS="--upgrade-package httpx"
LOCK_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint pytest docs bench lock clean setup setup-dev
.SUFFIXES:

# The theme advertises its successor on every build.
export NO_MKDOCS_2_WARNING := 1

# Finds a Python and hands over to .ci/install.py, which does nothing when all is in place.
# Every candidate is asked, because a name on PATH may be a stub or too old.
define INSTALL
@for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11; do \
  if [ -n "$$candidate" ] && command -v "$$candidate" >/dev/null 2>&1 && \
     "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
    exec "$$candidate" .ci/install.py $(1); \
  fi; \
done; \
echo "Slipway needs Python 3.11 or newer; none of python3, python3.13, python3.12, python3.11 is:\
 install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1
endef

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## Install what running Slipway needs
	$(call INSTALL,runtime)

setup-dev: ## Install what working on Slipway needs
	$(call INSTALL,dev)

demo: setup ## Launch a server on this machine: no cloud account, no root
	@$(VENV)/bin/slipway demo

define PYTEST
@$(PY) -m pytest -n $(WORKERS) $(PYTEST_ARGS)
endef

test: lint ## Lint, types, import contracts, documentation and every test
	$(PYTEST)

lint: setup-dev ## Lint, types, import contracts, documentation
	@echo "ruff check"; $(PY) -m ruff check --quiet .
	@echo "ruff format"; $(PY) -m ruff format --quiet --check .
	@echo "mypy"; $(PY) -m mypy
	@echo "import contracts"; $(VENV)/bin/lint-imports --no-logo >$(VENV)/lint-imports.log 2>&1 \
	  || { cat $(VENV)/lint-imports.log; exit 1; }
	@echo "mkdocs"; $(PY) -m mkdocs build --strict --quiet --site-dir $(VENV)/site

pytest: setup-dev ## The tests alone
	$(PYTEST)

docs: setup-dev ## Build the documentation into site/
	@$(PY) -m mkdocs build --strict --quiet
	@echo "site/index.html"

bench: setup-dev ## Run the benchmarks
	@$(PY) -m bench

lock: ## Pin the dependencies again, after a change to pyproject.toml
	$(call INSTALL,lock $(LOCK_ARGS))

clean: ## Remove everything that was made here
	rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache
	find slipway blocks tasks flows deployments tests bench -type d -name __pycache__ \
	  -prune -exec rm -rf {} +
