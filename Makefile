# Two commands for users: `make sweep` and `make test`. Each sets up its own virtual environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SWEEP ?= search_spaces/quickstart.yaml

.PHONY: sweep test fast slow check lint types imports bench fmt clean

sweep: $(INSTALLED)  ## find a front of small BERTs, report it, export the winner
	$(BIN)/distilsweep run $(SWEEP) $(ARGS)

test: $(INSTALLED)  ## every test but the slow ones; those with a cluster one after the other
	$(BIN)/python -m pytest -n 2 -m "not ray and not slow and not gpu and not net" $(ARGS)
	$(BIN)/python -m pytest -m "ray and not slow and not gpu and not net" $(ARGS)

fast: $(INSTALLED)  ## the tests that need neither Ray nor fresh processes nor training runs, under a minute
	$(BIN)/python -m pytest -n 2 -m "not ray and not process and not long and not slow and not gpu and not net" $(ARGS)

slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu and not net" $(ARGS)

check: lint types imports test  ## what CI runs

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## the benchmarks behind every speed claim
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

fmt: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,offline,onnx]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
