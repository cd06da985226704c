# make demo   the whole chain on the embedded sample set, about ten minutes on 2 cores
# make test   the linters and the whole suite
# make docs   the site, in site/
# Each makes .venv and installs what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs

demo: .venv/runtime
	$(BIN)/python compress.py

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

.venv/runtime: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/dev: requirements-dev.txt requirements-docs.txt requirements-clients.txt requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-clients.txt
	touch $@ .venv/runtime
