# Every target runs in .venv with the exact versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Use all cores, but at most eight.
SPREAD := -n auto --maxprocesses 8 --dist worksteal
PINS := $(VENV)/.pins-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow torture test-gpu bench-gpu test-slurm slurm-up slurm-down slurm-demo check format lock wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(PINS) ## create .venv with the package and its tools, at the pinned versions

$(PINS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"make: {sys.executable} is Python {v[0]}.{v[1]}; 3.11, 3.12 or 3.13 is needed. Name one: make PYTHON=python3.12 ...")'
	@echo "[1/2] creating $(VENV) with $(PYTHON)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/2] installing the package and its pinned dependencies"
	@$(BIN)/python scripts/pip_install.py --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "installed; 'source $(VENV)/bin/activate' makes the command chinchilla available"

demo: install ## data -> plan -> sweep -> fit -> diagnose -> report on the text that ships: about 5 minutes on 2 cores
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/reproduce_small.sh

test: install ## run the quick tests: about 2.5 minutes on 2 cores
	$(BIN)/python -m pytest $(SPREAD) -m 'not slow and not gpu and not slurm'

test-slow: install ## run the slow tests: about 10 minutes on 2 cores
	$(BIN)/python -m pytest $(SPREAD) -m 'slow and not gpu and not slurm'

torture: install ## run the fault-injection tests at full count: 30 minutes; writes docs/results/torture.json
	$(BIN)/python tests/torture/run.py

test-gpu: install ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench-gpu: install ## on a GPU, 9 minutes per call: tests, throughput, a sweep; PEERS='--nanogpt DIR ...'
	@PATH="$(CURDIR)/$(BIN):$$PATH" PEERS="$(PEERS)" bash scripts/gpu_session.sh || [ $$? -eq 75 ]

test-slurm: install ## run the tests on a local Slurm, which they start and stop: about 8 minutes
	$(BIN)/python -m pytest -m slurm

slurm-up: ## start a Slurm of four nodes on this machine; needs Debian's packages (slurm/README.md)
	$(PYTHON) slurm/local_slurm.py up

slurm-down: ## stop that Slurm
	$(PYTHON) slurm/local_slurm.py down

slurm-demo: install slurm-up ## submit the demo's sweep to that Slurm
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash slurm/demo.sh

check: install ## run ruff format, ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## format the source with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## write constraints.txt anew from pyproject.toml
	bash scripts/lock.sh $(PYTHON)

wheel: install ## dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean: ## remove what was made here; runs/ and data/ stay
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
