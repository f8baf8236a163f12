# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo   the whole job on the digits that scikit-learn bundles; prints where the report is
#   make test   the tests, on every core
# Others, for those who change the code:
#   make test-fast   the tests that need no whole run, no process and no long simulation
#   make test-slow   the tests of every combination of which `make test` has a sample
#   make coverage    `make test`, and the lines and branches that nothing ran
#   make check       ruff and mypy
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test test-fast test-slow coverage check clean

# Installed again only when pyproject.toml changes; the package itself is used in place.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: give PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m pretrain.compare experiment=digits out=runs/digits

test: .venv/installed
	$(PYTEST)

test-fast: .venv/installed
	$(PYTEST) -m 'not slow and not integration and not statistical'

test-slow: .venv/installed
	$(PYTEST) -m slow

coverage: .venv/installed
	$(PYTEST) --cov

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist htmlcov .coverage .coverage.*
