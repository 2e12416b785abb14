# make demo    the whole road on the embedded checkpoint, under 5 minutes on 2 cores once installed
# make test    every kind of test, under 15 minutes on 2 cores
# make test-all    with 10,000 fuzzed headers, 50 kills and kernels compiled for GPUs: some minutes more
# make check   formatting, lint, types, import arrows

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := convert patches eval recipes

.PHONY: venv demo test test-all check format clean

venv: $(VENV)/.installed

# torch first and alone: any looser request brings gigabytes of CUDA packages to a machine without a GPU.
# Not compiled ahead: that is a third of the installation, and Python compiles what is imported anyway.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	rm -rf runs/demo
	$(BIN)/python -m recipes run recipes/tiny/demo.yaml --output runs/demo

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not thorough'

test-all: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_arrows.py

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf runs build *.egg-info
