# densevit: `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= ../shared/data
STREETS ?=

.PHONY: demo test test-slow lint format bench packaged-model clean

demo: $(READY)  ## segmentation, detection and the packaged model on one page, 11 minutes on two busy cores; STREETS=folder for yours
	rm -rf runs/demo
	$(BIN)/densevit demo --out runs/demo $(STREETS)

test: $(READY)  ## the default tests, one process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

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

packaged-model: $(READY)  ## train the model in the package afresh, two hours; needs DATA=folder with cifar10 and camvid
	$(BIN)/densevit fit --recipe cifar10 --data.root=$(DATA)/cifar10 --out runs/cifar10
	$(BIN)/densevit fit --recipe camvid_hlg --data.root=$(DATA)/camvid --model.pretrained=runs/cifar10 --out runs/camvid_hlg
	$(BIN)/python tools/pack_default_model.py runs/camvid_hlg

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
