# make demo              train the 30-layer network on digits, print a table, save a figure
# make demo DATA=mnist   the same on MNIST (also fashion_mnist, or path/to/file.npz)
# make test              the tests        make test-all   with the slow ones
# make bench             speed, beside Keras's, optax's and torch's optimizers; QUICK=1: 5 minutes
# make notebooks         run them in full and save what they show; NOTEBOOKS=quadratic: one; QUICK=1: short
# make lint              ruff             make clean      remove what the above made

PYTHON ?= python3
DATA ?= digits
VENV := .venv
BIN := $(VENV)/bin

# One stamp per set of extras, so that nothing is installed twice until setup.cfg changes.
STAMP = $(VENV)/.installed

NOTEBOOKS ?= $(basename $(notdir $(wildcard notebooks/*.py)))

.PHONY: demo test test-all bench notebooks lint clean

demo: $(STAMP)-experiments
	$(BIN)/tf-blocknorm run mlp --data "$(DATA)"

# On three backends, one after the other: a process has but one.
test: $(STAMP)-test
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n 2 -m "not slow"
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2 -m "not slow"
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(STAMP)-test
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n 2
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n 2
	$(BIN)/python tests/plant_faults.py

bench: $(STAMP)-benchmark
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

notebooks: $(STAMP)-notebooks
	cd notebooks && for name in $(NOTEBOOKS); do \
	  ../$(BIN)/jupytext --quiet --update --to ipynb $$name.py && \
	  QUICK=$(QUICK) ../$(BIN)/jupyter execute --inplace $$name.ipynb || exit 1; done

lint: $(STAMP)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(STAMP)-%: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs notebooks/runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
