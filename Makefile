# Each target prepares .venv first (launch/environment/setup.sh); a current one costs a fraction of a second.
PY := .venv/bin/python
CODE := ppr_dist tests benchmarks
PYTEST := $(PY) -m pytest -n 2 --dist worksteal
# Tests and demo start many processes; without byte code each compiles PyTorch and DeepSpeed anew, for 10 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo test test-rest test-all check gpu bench soak clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

env: ## the environment alone, in .venv
	@launch/environment/setup.sh

demo: env ## the whole way on a small synthetic catalogue: prepare, pre-train, tune, evaluate, recommend
	@launch/demo.sh

test: env ## the tests, at most 8 minutes on 2 cores; those that need a GPU are skipped where there is none
	@$(PYTEST) -m "not exhaustive"

test-rest: env ## what `make test` leaves out: its properties at more points
	@$(PYTEST) -m exhaustive

test-all: test test-rest ## both

check: env ## lint, format and types
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)
	@$(PY) -m mypy

gpu: ## the single-GPU test mode, at most 8 minutes; without a GPU it says so and ends with "Error 3"
	@launch/gpu.sh

bench: env ## the benchmarks
	@$(PY) -m benchmarks

soak: env ## kills a run a hundred times, in at most 90 minutes; goes on where it was stopped
	@$(PY) -m benchmarks.survival --work runs/survival

clean: ## removes .venv and caches; never runs/ or data/
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
