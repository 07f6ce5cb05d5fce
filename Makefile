# densevit: `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow lint format bench clean

demo: $(READY)  ## train, score and show a small model on generated street scenes, about five minutes
	rm -rf runs/demo

	$(BIN)/densevit demo --out runs/demo

test: $(READY)  ## the default tests
	$(BIN)/python -m pytest

test-slow: $(READY)  ## the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## style, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the committed benchmarks, both sides in one run
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
