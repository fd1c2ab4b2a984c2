# `make demo` and `make test` are all the set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP := $(VENV)/.installed-$(VERSION)
TESTS ?= tests
SHARD ?= $(shell expr $$(date +%j | sed 's/^0*//') % 14)

.PHONY: help demo test test-slow test-shard lint types check-docs install clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## *\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(STAMP)  ## prepare the corpus, train the proxies, write the forecast, train the target, report
	$(BIN)/stepladder demo --workdir=demo

test: lint types  ## lint, format, types and the fast suite
	$(BIN)/pytest -n 2 -q -rs --durations=40 -m "not slow" $(TESTS)

test-slow: $(STAMP)  ## everything that is slow: kill and resume, whole ladders, TPU programs
	$(BIN)/pytest -q -rs -m slow $(TESTS)

test-shard: $(STAMP)  ## one of fourteen shards of the slow tests, another one every day
	$(BIN)/pytest -q -rs -m slow --slow-shard=$(SHARD)/14 $(TESTS)

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## basedpyright: basic everywhere, strict in configs and analysis
	$(BIN)/basedpyright --level error

check-docs: $(STAMP)  ## whether the generated tables in the documents are up to date
	$(BIN)/python benchmarks/check_docs.py

install: $(STAMP)  ## create .venv and install into it

$(STAMP): pyproject.toml setup.py constraints/$(VERSION).txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints/$(VERSION).txt --editable '.[train,tpu-plan,gpu-plan,dev]'
	touch $@

clean:  ## remove .venv, the demo and what a build leaves
	rm -rf $(VENV) demo build dist *.egg-info
