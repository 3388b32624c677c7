.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup check lint type test clean

help:  ## Say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/ready  ## Install everything, in the tested versions, into .venv

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	touch $@

check: lint type test  ## All that CI runs

lint: setup  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy --strict
	$(BIN)/mypy

test: setup  ## The tests, on real PostgreSQL, S3 and Dask
	$(BIN)/pytest --numprocesses 2 --dist loadfile

clean:  ## Remove what these targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
