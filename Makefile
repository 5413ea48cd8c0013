# make demo     four engines at work on real input, checked and drawn
# make test     the tests (ARGS="-k name" passes options on)
# make test-slow  the long ones: minutes of churn, a gigabyte over a slow line
# make chaos    real clusters while everything goes wrong, for a minute (ARGS="--seconds 600 --seed 7")
# make soak     twenty minutes at full load: does any process grow? (ARGS="--seconds 300")
# make fuzz     decoders and state machines under a coverage-guided fuzzer (ARGS="--seconds 600")
# make browser  the tests in a browser: JupyterLab and Chromium are installed first
# make check    lint, types, layering, docs
# make bench    speed, side by side with other libraries (ARGS="--quick")
# make docs     the documentation, into docs/_build/html
# make clean    remove what was built; the virtual environment stays
#
# Each target first makes the virtual environment and installs what it needs, once. Another Python:
#   make test PYTHON=python3.13 VENV=.venv313

VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
    $(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
ARGS ?=
# Test processes side by side, one more than cores: most tests wait for processes of their own.
JOBS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
# A test that fails is run once more, and the summary names it: real processes on a busy machine miss a deadline
# now and then. RERUNS=0 for none.
RERUNS ?= 1

PY := $(VENV)/bin/python
INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install --quiet --editable

.PHONY: demo test test-slow chaos soak fuzz browser check lint types layers docs bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(VENV)/bin/directview demo $(ARGS)

test: $(VENV)/.installed-test
	@$(PY) -m pytest -q -m "not slow" --numprocesses=$(JOBS) --dist=loadfile --reruns=$(RERUNS) -r aR $(ARGS)

test-slow: $(VENV)/.installed-test
	@$(PY) -m pytest -q -m slow -o faulthandler_timeout=2400 $(ARGS)

chaos: $(VENV)/.installed-test
	@$(PY) -m directview.testing.chaos $(ARGS)

soak: $(VENV)/.installed
	@$(PY) -m directview.testing.soak $(ARGS)

fuzz: $(VENV)/.installed-fuzz
	@$(PY) tests/fuzz/fuzz.py $(ARGS)

browser: $(VENV)/.installed-browser
	@tests/browser/install.sh
	@$(PY) -m pytest -q tests/browser $(ARGS)

check: lint types layers docs
	@echo "check: all good"

lint: $(VENV)/.installed-lint
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check . || { \
	    echo "these files want \`$(VENV)/bin/ruff format\`:"; $(VENV)/bin/ruff format --check .; exit 1; }

types: $(VENV)/.installed-lint
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/pyright --pythonpath $(PY) | grep -v '^0 errors' ; exit $${PIPESTATUS[0]}

layers: $(VENV)/.installed-lint
	@$(VENV)/bin/lint-imports > $(VENV)/layers.log 2>&1 || { cat $(VENV)/layers.log; exit 1; }

docs: $(VENV)/.installed-docs
	@$(PY) -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-bench
	@$(PY) -m benchmarks $(ARGS)

clean:
	@rm -rf build dist *.egg-info docs/_build docs/reference/api htmlcov .coverage .coverage.*
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# --- the virtual environment: a stamp says what is installed in it -------------------------------------

SHELL := /bin/bash

# Hundreds of processes import the same modules. Where a setting of the environment forbids to keep bytecode,
# each would compile all of them: 0.25 s of processor time for a supervisor, instead of 0.1.
unexport PYTHONDONTWRITEBYTECODE

$(PY):
	@test -n "$(PYTHON)" || { echo "directview needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(PY)
	@$(INSTALL) . && touch $@

$(VENV)/.installed-%: pyproject.toml | $(PY)
	@echo "installing directview[$*]"
	@$(INSTALL) '.[$*]' && touch $@ $(VENV)/.installed
