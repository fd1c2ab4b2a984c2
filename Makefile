# `make demo` and `make test` are all the set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP := $(VENV)/.installed-$(VERSION)
TESTS ?= tests
SHARD ?= $(shell expr $$(date +%j | sed 's/^0*//') % 6)

.PHONY: demo test test-slow test-shard lint check-docs install clean

demo: $(STAMP)  ## prepare the corpus, train the proxies, write the forecast, train the target, report
	$(BIN)/stepladder demo --workdir=demo

test: $(STAMP)  ## the fast suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -n 2 -q -rs -m "not slow" $(TESTS)

test-slow: $(STAMP)  ## everything, kill-and-resume and whole ladders included
	$(BIN)/pytest -q -rs -m slow $(TESTS)

test-shard: $(STAMP)  ## one of six shards of the slow tests, another one every day
	$(BIN)/pytest -q -rs -m slow --slow-shard=$(SHARD)/6 $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-docs: $(STAMP)  ## whether the generated tables in the documents are up to date
	$(BIN)/python benchmarks/check_docs.py

install: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints/$(VERSION).txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints/$(VERSION).txt --editable '.[train,tpu-plan,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
