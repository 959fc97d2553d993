# One-word commands. They need Python 3.11+, make and git; everything else goes into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help demo serve bench test test-slow lint format wheel clean tools clients

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## the gateway with a small shop and inbox to try it on
	@$(BIN)/gateway demo

serve: $(VENV)/installed  ## the gateway alone, on http://localhost:8000
	@$(BIN)/gateway serve

test: $(VENV)/installed-test tools clients  ## lint, types, and every test but the slow ones
	@sh scripts/check.sh

test-slow: $(VENV)/installed-test tools clients  ## the tests marked slow
	@sh scripts/check.sh slow

lint: $(VENV)/installed-test  ## ruff and mypy only
	@sh scripts/check.sh lint

format: $(VENV)/installed-test  ## rewrite the Python files in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/installed  ## what a durable event costs beside an empty route; figures in bench.json
	@$(BIN)/gateway bench ingest --offered 5000 --output bench.json

wheel: $(VENV)/installed-test  ## build the wheel into dist/
	@$(PIP) wheel --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:  ## remove the virtual environment and everything built or cached
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis test-results tests/dialects/clients/node_modules examples/playwright_test/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

tools: $(VENV)/installed-test
	@$(BIN)/python scripts/install_tools.py

clients: $(VENV)/installed-test
	@sh scripts/install_clients.sh

# A stamp older than pyproject.toml installs again, and so does one whose interpreter is gone: then both stamps go first.
$(shell test -x $(BIN)/python || rm -f $(VENV)/installed $(VENV)/installed-test)

$(VENV)/installed: pyproject.toml
	@sh scripts/make_venv.sh "$(PYTHON)" $(VENV)
	@echo "Installing the gateway into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml
	@sh scripts/make_venv.sh "$(PYTHON)" $(VENV)
	@echo "Installing the gateway and what its tests need into $(VENV)"
	@$(PIP) install --editable '.[test]'
	@touch $(VENV)/installed $@
