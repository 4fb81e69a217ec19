# Two commands on an empty machine: `make demo` and `make test`. Both set up .venv first, once.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test lint docs check clean

help:
	@echo "make demo    set up .venv and run the whole chain on embedded images (minutes)"
	@echo "make test    set up .venv and run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make docs    build the pages of docs/ into build/site, with their links checked"
	@echo "make check   lint and test"
	@echo "make clean   remove .venv; runs/ and results/ stay"

$(INSTALLED): pyproject.toml
	@echo "Setting up .venv with $(PYTHON): about 6 GB, most of it torch. This happens once."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
	@echo "Installed: $$($(BIN)/moco-eval --version)"

demo: $(INSTALLED)
	@$(BIN)/moco-eval demo

test: $(INSTALLED)
	@echo "Running the tests; those marked detectron2 are skipped where it is absent."
	@$(BIN)/python -m pytest -q -rs -n auto

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

check: lint test

clean:
	rm -rf .venv
