.DEFAULT_GOAL := help
SHELL := bash -o pipefail
PYTHON ?= python3
BIN := .venv/bin
FAULT_ROUNDS ?= 6
# Files in the order of tests/conftest.py, the longest first; many tests wait for servers and for processes that they start.
APART := --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo demo-s3 check lint type test coverage faults bench bench-check docs clean

help:  ## Say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/ready  ## Install everything, in the tested versions, into .venv

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[local,train,export,dev]'
	touch $@

demo: setup  ## Simulate, build, look, train, evaluate and export, on embedded PostgreSQL and files, in ./demo
	$(BIN)/heimdall demo --dir demo

demo-s3: setup  ## The same through embedded S3, in ./demo-s3
	$(BIN)/heimdall demo --s3 --dir demo-s3

check: lint type coverage bench-check docs  ## All that CI runs

lint: setup  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy --strict
	$(BIN)/mypy

test: setup  ## The tests, on real PostgreSQL, S3 and Dask
	$(BIN)/pytest --numprocesses 3 $(APART)

coverage: setup  ## The tests again, with the branches that they run through: at least 92% of each package
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --numprocesses 3 $(APART)
	$(BIN)/coverage combine --quiet
	for package in featurestore trainer exporter; do \
		echo "$$package:"; $(BIN)/coverage report --include="$$package/*" --fail-under=92 | tail -n 3 || exit 1; \
	done

faults: setup  ## Many rounds of injected faults: networks, kills, damaged files, concurrent builds; prints what was lost (0)
	$(BIN)/pytest tests/faults --fault-rounds $(FAULT_ROUNDS) --numprocesses 2 $(APART)

bench: setup  ## Speed of build, planning, stream and training, each against something in the same run
	$(BIN)/python bench/build_features.py
	$(BIN)/python bench/rebuild.py --s3
	$(BIN)/python bench/rebuild.py
	$(BIN)/python bench/planning.py
	$(BIN)/python bench/pairs.py
	$(BIN)/python bench/loaders.py
	$(BIN)/python bench/loaders.py --s3 --rows 8192
	$(BIN)/python bench/gpu.py
	$(BIN)/python bench/training.py
	$(BIN)/python bench/training.py --s3
	$(BIN)/python bench/inference.py
	$(BIN)/python bench/knowable.py
	$(BIN)/python bench/sessions.py --sessions 4000
	$(BIN)/python bench/sessions.py --levels 100000

bench-check: setup  ## Does every script of bench/ still run, at its smallest size?
	$(BIN)/python bench/check.py

docs: setup  ## The pages as HTML in build/docs, with every warning an error
	$(BIN)/python docs/cli_page.py
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --nitpicky --quiet -b html docs build/docs

clean:  ## Remove what these targets made
	rm -rf demo demo-s3 .venv .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
