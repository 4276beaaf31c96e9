# The commands of the template's repository; `make` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# uv from this machine, or a copy of the pinned version that pip puts beside the repository.
UV_VERSION := $(shell sed -n 's/^uv: "\(.*\)"$$/\1/p' extensions/versions.yml)
UV := $(or $(shell command -v uv),$(CURDIR)/.uv/bin/uv)
export PATH := $(dir $(UV)):$(PATH)
unexport PYTHONDONTWRITEBYTECODE # with it, each of a thousand Python processes compiles what it imports

RIG := python3 -m tests.rig

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(UV) ## Render the default answers into demo/my-service and start the service
	tests/rig/demo

.PHONY: check
check: lint ## Check style, types and what is rendered: a minute, without a container engine
	uv run pytest --numprocesses=auto tests/render

.PHONY: test
test: $(UV) ## Run all tests, or some: make test ARGS="tests/render -k port"; starts an engine where none answers
	$(RIG) run uv run pytest --numprocesses=auto $(ARGS)

.PHONY: fuzz
fuzz: $(UV) ## Try N random answer sets: make fuzz N=5000
	$(RIG) run env FUZZ_EXAMPLES=$(or $(N),500) uv run pytest --timeout=0 -rP tests/fuzz

.PHONY: fuzz-updates
fuzz-updates: $(UV) ## Try N random histories of a service and an update: make fuzz-updates N=2000
	FUZZ_UPDATES=$(or $(N),200) uv run pytest --timeout=0 --capture=no tests/update/test_users_work.py

.PHONY: rehearse
rehearse: $(UV) ## Rehearse all kinds of deployments under load, and write their table into docs/deploying.md
	$(RIG) run uv run python -m tests.rehearsal

.PHONY: bench
bench: $(UV) ## Measure what the image and the process cost, as ratios
	CONTAINERD_IMAGE_STORE=yes $(RIG) run uv run --group bench python -m benchmarks

.PHONY: lint
lint: $(UV) ## Check style and types of the tests
	uv run ruff check
	uv run ruff format --check
	uv run mypy
	uv run shellcheck tests/rig/demo tests/rig/postgres .ci/run

.PHONY: rig
rig: $(UV) ## Make a container engine, base images and a registry available
	$(RIG) up

.PHONY: rig-down
rig-down: ## Stop what `make rig` started
	$(RIG) down

$(CURDIR)/.uv/bin/uv:
	@echo "uv is not installed; getting $(UV_VERSION) into .uv/" >&2
	python3 -m venv .uv || { apt-get update --quiet && apt-get install --yes --quiet python3-venv && python3 -m venv .uv; }
	.uv/bin/pip install --quiet uv==$(UV_VERSION)
