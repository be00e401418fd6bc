# `make demo` and `make test` need nothing but Python >= 3.11: they make .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
JOBS ?= 2

.PHONY: setup demo test test-slow lint bench gpu docs support dist clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/anisole demo

# in two processes; then the kernels that ran in the simulator are compiled for real GPUs
test: setup
	$(PYTEST) -n $(JOBS) --dist worksteal -m "not slow and not gpu" --ignore=tests/test_ptx.py --launches=$(VENV)/launches.json
	$(PYTEST) -m "not slow and not gpu" tests/test_ptx.py --launched=$(VENV)/launches.json

# what takes longer, in one process
test-slow: setup
	$(PYTEST) -m "slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/direct_sum.py
	$(BIN)/python benchmarks/edge_operators.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m fmm bench

# needs a GPU, and a torch that has CUDA, in .venv or in python3; installs nothing
gpu:
	bash benchmarks/gpu_check.sh

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# the fast core of the tests with the oldest and the newest of all dependencies (noxfile.py)
support: setup
	$(BIN)/nox

# what is uploaded: the wheel is built from the sdist; docs/releasing.md
dist: setup
	rm -rf build dist *.egg-info
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) .nox runs build dist docs/_build docs/_generated docs/auto_gallery *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find multipoles fmm gnn tests -name __pycache__ -prune -exec rm -rf {} +
