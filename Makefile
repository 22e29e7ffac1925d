# One target for each thing people do here; `make` alone lists them.
#
# Nothing is needed beforehand but Python 3.11 or later: every target first sees to
# the environment in $(VENV), once. Variables that may be set from outside:
#
#   PYTHON  the interpreter that makes the environment (default: python3)
#   VENV    where the environment lies                 (default: .venv)
#   LOWEST  1 makes it of the lowest versions that pyproject.toml allows
#   PROCESSES how many share the everyday tests (default: 2)
#   ARGS    words passed on to the command, e.g. make test ARGS="-k router -x"

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
LOWEST ?=
PROCESSES ?= 2
ARGS ?=

BIN := $(VENV)/bin
# Present and newer than the files that say what to install: nothing to do.
STAMP := $(VENV)/.mtkd-installed
PACKAGES := align teacher fuse student plugins experiments
PYTEST := $(BIN)/python -m pytest

# The pytest targets never reach for a hub, and small matrices want one thread. Bytecode
# is kept whatever the shell says, or each process of a test compiles all of the platform.
TEST_ENV := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 \
            PYTHONDONTWRITEBYTECODE=

.PHONY: help install hooks quickstart test test-lowest test-slow test-torchao same-losses lint check format docs site \
        release-check bench clean distclean

help: ## list the targets
	@echo "mtkd: one small student learns from several frozen teachers"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) \
	  | while IFS=$$'\t' read -r name what; do \
	      printf '  make %-13s %s\n' "$$name" "$$what"; done
	@echo
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) PROCESSES=$(PROCESSES) ARGS=$(ARGS)"

quickstart: $(STAMP) ## train a real student from five teachers, all phases
	$(BIN)/mtkd quickstart $(ARGS)

test: $(STAMP) ## the everyday tests, four minutes of the processor
	$(TEST_ENV) $(PYTEST) --processes $(PROCESSES) $(ARGS)

test-lowest: ## the same with the lowest versions allowed, in .venv-lowest
	@$(MAKE) --no-print-directory test VENV=.venv-lowest LOWEST=1

test-slow: $(STAMP) ## the long tests, and those on a real SLURM
	$(TEST_ENV) $(PYTEST) -m "slow or slurm" $(ARGS)

test-torchao: $(STAMP) ## rounded weights against torchao, beside the environment
	@[ -d $(VENV)/torchao ] || $(BIN)/pip install -q --no-deps --target $(VENV)/torchao torchao==0.18.0
	PYTHONPATH=$(VENV)/torchao $(TEST_ENV) $(PYTEST) -m slow tests/student/transforms/test_torchao.py

same-losses: $(STAMP) ## whether losses are what they were (ARGS=--write)
	$(TEST_ENV) $(BIN)/python -m tests.experiments.same_losses $(ARGS)

lint: $(STAMP) ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test ## what a change must pass: lint, then test

format: $(STAMP) ## rewrite the sources as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## write the generated pages again
	$(BIN)/python -m experiments.config.reference > $(VENV)/page && mv $(VENV)/page docs/config.md
	$(BIN)/python scripts/api_reference.py
	$(BIN)/python scripts/techniques.py
	$(BIN)/python scripts/built_in_names.py

site: ## build the pages as a site, into build/site, by an environment of its own
	@[ -x .venv-site/bin/mkdocs ] || { $(PYTHON) -m venv .venv-site \
	  && .venv-site/bin/pip install -q 'mike>=2.1' 'mkdocs-material>=9.6'; }
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build -q

release-check: $(STAMP) ## build, install elsewhere, run (ARGS="--keep dist")
	$(BIN)/python scripts/release_check.py $(ARGS)

bench: $(STAMP) ## measure what the platform costs beside the models
	@for main in experiments/bench/*/__main__.py; do \
	  name=$$(basename "$$(dirname "$$main")"); echo "== $$name"; \
	  $(BIN)/python -m experiments.bench.$$name $(ARGS) || exit 1; done

install: $(STAMP) ## make the environment and nothing else

hooks: $(STAMP) ## have git check what is committed (.pre-commit-config.yaml)
	$(BIN)/pre-commit install

clean: ## remove what builds and tests leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find $(PACKAGES) scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove the environment; runs/ and caches stay
	rm -rf $(VENV) .venv-lowest .venv-313 .venv-site

$(STAMP): pyproject.toml constraints.txt scripts/install.sh scripts/lowest.py
	@PYTHON='$(PYTHON)' VENV='$(VENV)' LOWEST='$(LOWEST)' bash scripts/install.sh
	@touch $@
