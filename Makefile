.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo demo-s3 check lint type test bench docs clean

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

check: lint type test  ## All that CI runs

lint: setup  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy --strict
	$(BIN)/mypy

test: setup  ## The tests, on real PostgreSQL, S3 and Dask
	$(BIN)/pytest --numprocesses 2 --dist loadfile

bench: setup  ## Speed of build, planning, stream and training, each against something in the same run
	$(BIN)/python bench/build_features.py
	$(BIN)/python bench/planning.py
	$(BIN)/python bench/loaders.py
	$(BIN)/python bench/loaders.py --s3 --rows 8192
	$(BIN)/python bench/gpu.py
	$(BIN)/python bench/inference.py

docs: setup  ## Check that the pages in docs/ say what the code does
	$(BIN)/pytest tests/test_format_docs.py tests/corpus/test_simulator_docs.py tests/test_docs.py tests/trainer/test_training_docs.py

clean:  ## Remove what these targets made
	rm -rf demo demo-s3 .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
