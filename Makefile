# What people and CI run. Everything is installed into .venv; nothing else of the machine changes,
# but for programs that `make test` installs on Debian as root if they are missing: RabbitMQ,
# promtool, Chromium, curl and Node.js.

PYTHON ?= python3
BIN := .venv/bin
# Python keeps what it compiled: a process that has to compile the tree starts half as fast again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo up env check test compose-test faults bench lint style types layers quick docs
.PHONY: screenshots clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: .venv/run ## play the whole story on the embedded default, and end
	@$(BIN)/allocation demo

up: .venv/run ## the same service, staying up, with its page on http://127.0.0.1:5005/
	@$(BIN)/allocation up

env: ## write .env for compose, with a random value for each secret
	@$(PYTHON) tools/env.py

check: .venv/dev ## for every save: lint, and the tests that need no server, in less than a minute
	@$(MAKE) --no-print-directory --jobs 2 types quick style layers

quick: .venv/dev
	$(BIN)/pytest -m 'not server and not matrix' --numprocesses 2 tests/unit tests/contract tests/storage

test: lint ## every test, against real PostgreSQL and RabbitMQ that it starts by itself
	$(BIN)/pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder

compose-test: .venv/dev ## the deployed system on a container engine: the story, kills, restarts
	$(BIN)/pytest --override-ini norecursedirs=.* --durations=0 tests/compose

faults: .venv/dev ## the fault matrix: everything is killed, cut and doubled; it takes a while
	$(BIN)/pytest -m matrix --durations=0

bench: .venv/dev ## the figures, each beside its limit measured in the same run
	$(BIN)/python -m tests.bench

lint: .venv/dev ## style, types, and the rules of the architecture
	@$(MAKE) --no-print-directory --jobs 2 types style layers

style: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev
	$(BIN)/mypy

layers: .venv/dev
	$(BIN)/lint-imports

docs: .venv/dev ## write what is made from the code and the contract anew, and build the site of all pages in site/
	$(BIN)/python -m tools.client
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.site
	$(BIN)/allocation openapi > site/openapi.json
	$(BIN)/allocation asyncapi > site/asyncapi.json

screenshots: .venv/dev ## take the pictures in docs/img anew, after the pages changed
	$(BIN)/python -m tests.browser.screenshots

.venv/run: pyproject.toml constraints.txt
	@echo "Installing into .venv (about a minute, once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[server]'
	@touch $@

.venv/dev: .venv/run
	@echo "Installing what the tests need ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean: ## remove the environment and the embedded state
	rm -rf .venv var build dist site .cache *.egg-info
