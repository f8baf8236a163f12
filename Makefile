# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo   the whole job on the digits that scikit-learn bundles; prints where the report is
#   make test   the tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

# Installed again only when pyproject.toml changes; the package itself is used in place.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m pretrain.compare experiment=digits out=runs/digits

test: .venv/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist
