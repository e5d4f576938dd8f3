# `make help` says what there is. Every target sets up .venv first, which takes a moment when it is there.
SHELL := /bin/sh
PYTHON := .venv/bin/python
SEEDS ?= 1000
TESTS ?= tests
TOOLS_WAIT ?= 1200
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv from the lock; starts the build of the cluster's programs in the background
	@hack/setup

demo: setup ## replay all flights of 2013 on this machine, with a killed worker, a scale-up and moves
	$(PYTHON) -m examples.flights.demo

demo-cluster: setup tools ## the same on a real Kubernetes control plane with the operator and Prometheus
	$(PYTHON) -m examples.flights.demo --cluster

test: setup ## all tests; says at the end which were skipped and why
	@hack/tools/build --wait $(TOOLS_WAIT) || echo "tests that need a cluster's programs are skipped"
	$(PYTHON) -m pytest $(TESTS) || { echo "what failed is run once more, alone:"; \
	    $(PYTHON) -m pytest $(TESTS) --last-failed --last-failed-no-failures none; }

check: setup ## lint, format, types, import contracts, generated files
	@hack/check

simulate: setup ## the engine under simulated faults: SEEDS=1000
	$(PYTHON) -m tests.simulation --seeds $(SEEDS)

mutants: setup ## seeded mistakes in the engine, each of which a test must catch
	$(PYTHON) -m tests.simulation.mutants

bench: setup ## benchmarks against peers, as ratios within one run
	$(PYTHON) -m benchmarks

faults: setup ## faults on real servers and processes under load
	$(PYTHON) -m benchmarks.faults

crds: setup ## write crds/ from the models, and the chart's copies
	$(PYTHON) -m starling_operator.api.generate crds
	$(PYTHON) -m hack.chart

chart: setup ## write what the chart carries: definitions, boards, table of values
	$(PYTHON) -m hack.chart

features: setup ## write docs/features.md: which requirement is proved by which test
	$(PYTHON) -m hack.features

commands: setup ## write docs/commands.md: the command line, from the program
	$(PYTHON) -m hack.commands

model: setup ## check the protocol's models with SPIN, where it is installed
	@if command -v spin >/dev/null; then cd docs/protocol && sh runs.sh && sh table_runs.sh; else echo "no spin here: the models are not checked"; fi

cluster: setup tools ## start a real Kubernetes control plane with two process nodes; prints its KUBECONFIG
	$(PYTHON) -m hack.cluster up --nodes 2

tools: setup
	@hack/tools/build --wait $(TOOLS_WAIT)

clean: ## remove what was built here, and .venv
	rm -rf .venv build dist .starling .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup demo demo-cluster test check simulate mutants bench faults crds chart features commands model cluster tools clean
