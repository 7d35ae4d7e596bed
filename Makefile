# Everything a newcomer needs: `make demo`, `make test`, `make check`. Needs Python 3.11 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CHECKED := build/checked
ARGS ?=
PYTEST_ARGS ?= -n 2

.PHONY: demo test check format setup lock wheel clean

demo: setup ## the main job in one go; ARGS='--trace FILE …'
	@$(BIN)/mirrorlog demo $(ARGS)

test: setup ## the whole suite
	$(BIN)/pytest $(PYTEST_ARGS)

check: setup ## format, lint, types; the architecture rules are tests/unit/test_architecture.py
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build && $(BIN)/pip install -q --no-deps --no-build-isolation --target $(CHECKED) .
	cd $(CHECKED) && $(abspath $(BIN))/mypy --config-file $(abspath pyproject.toml) --cache-dir $(abspath .mypy_cache) -p mirrorlog
	$(BIN)/pytest -q tests/unit/test_architecture.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mirrorlog needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@echo "installing the locked dependencies into $(VENV) (once)" >&2
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: ## pins every dependency, with hashes, for every Python from 3.11 on
	uvx --from uv uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --all-extras pyproject.toml -o requirements.lock

wheel: setup
	rm -rf build && $(BIN)/python -m build --no-isolation --wheel

clean:
	rm -rf build dist *.egg-info $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
