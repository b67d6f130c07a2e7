# `make demo`: set up and segment a real scan. `make test`: set up and pass the tests. Nothing else is needed but Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check docs clean

demo: $(VENV)/.installed
	$(BIN)/s2vnet demo -o demo

test: $(VENV)/.installed-dev
	$(BIN)/pytest --cov --cov-report=term

check: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/python scripts/reference.py --check && $(BIN)/python scripts/results.py --check

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/reference.py && $(BIN)/python scripts/results.py

clean:
	rm -rf $(VENV) demo
