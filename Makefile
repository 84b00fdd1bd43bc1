# Every target works from a fresh clone: what it needs is set up first, and costs nothing the second time.
PYTHON ?= python3
VENV := .venv
LOCK := .requirements.lock
STAMP := $(VENV)/.setup-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c1-16)
SHOOTDOWN := $(VENV)/bin/shootdown
WORKERS ?= 2

TRACE ?=
POLICY ?=
SIM ?=
SEED ?=
CPUS ?=
WAVES ?=
RUN_OPTIONS = $(addprefix --policy ,$(POLICY)) $(if $(SIM),--sim $(SIM)) $(if $(SEED),--seed $(SEED)) \
              $(if $(CPUS),--cpus $(CPUS)) $(if $(filter-out 0,$(WAVES)),--waves)

.PHONY: help setup sim compare matrix bench bench-hw fpga formal sweep waves doctor test lint type mypy basedpyright unit format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables of make sim: TRACE= POLICY= SIM= SEED= CPUS= WAVES=1"

setup: $(STAMP) ## Make .venv from the lock file, and install Debian packages when root

$(STAMP):
	@.ci/system-packages $(PYTHON)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "setup: Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing locked Python packages into $(VENV)"
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $(LOCK)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.setup-* && touch $@

sim: $(STAMP) ## Replay a real program against the RTL under two policies and print the answer
	@$(SHOOTDOWN) run $(RUN_OPTIONS) $(TRACE)

compare: $(STAMP) ## Compare the policies over five seeds, and with link and IPI costs times 1/4 and 4
	@$(SHOOTDOWN) compare

matrix: $(STAMP) ## Measure policy x invariant with 100,000 explored schedules a cell (many hours)
	@mkdir -p out
	@$(SHOOTDOWN) matrix --full --markdown out/matrix.md

bench: $(STAMP) ## Measure emulated cycles per second against the same RTL without Python
	@$(SHOOTDOWN) bench

bench-hw: $(STAMP) ## Measure the MMU's latencies and rates in cycles, beside their targets and the best open RTL
	@mkdir -p out
	@$(SHOOTDOWN) figures --json out/figures.json $(addprefix --fpga ,$(wildcard out/fpga.json)) \
		$(addprefix --sweep ,$(wildcard out/sweep.xml))

fpga: $(STAMP) ## Fit the MMU on an ECP5-85F and print its area and clock
	@mkdir -p out
	@$(SHOOTDOWN) fpga --json out/fpga.json

sweep: $(STAMP) ## Move invalidations of every kind across every race of the MMU, one clock at a time (more than an hour)
	@SHOOTDOWN_SWEEP_STRIDE=1 $(VENV)/bin/pytest -v tests/hdl/test_mmu.py -k "sweep or update" --junitxml out/sweep.xml \
		-n $(WORKERS) --dist load --maxschedchunk 1

formal: $(STAMP) ## Prove properties of the RTL, and that the proofs find seeded faults
	@mkdir -p out
	@$(SHOOTDOWN) formal --json out/formal.json

waves: $(STAMP) ## Open the last run in GTKWave
	@$(SHOOTDOWN) waves

doctor: $(STAMP) ## Say which tools were found, which are missing and how to install them
	@$(SHOOTDOWN) doctor

test: lint type unit ## Lint, check types, run all tests

lint: $(STAMP) ## Check style
	@$(VENV)/bin/ruff check --quiet hdl sw tb tests
	@$(VENV)/bin/ruff format --check --quiet hdl sw tb tests

type: $(STAMP) ## Check types
	@$(MAKE) --no-print-directory -j2 mypy basedpyright

mypy: $(STAMP)
	@$(VENV)/bin/mypy --no-error-summary

basedpyright: $(STAMP)
	@$(VENV)/bin/basedpyright --level error

unit: $(STAMP) ## Run the tests alone
	@$(VENV)/bin/pytest -q -m "not long" -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(TESTS)

format: $(STAMP) ## Rewrite the sources in the house format
	@$(VENV)/bin/ruff check --quiet --fix hdl sw tb tests
	@$(VENV)/bin/ruff format --quiet hdl sw tb tests

lock: $(STAMP) ## Resolve the dependencies again into the lock file
	@$(VENV)/bin/uv pip compile pyproject.toml --extra test --extra eda --extra dev --generate-hashes --python-version 3.11 \
		--universal --no-header --quiet --upgrade -o $(LOCK)

clean: ## Remove results and tool caches; the model cache and .venv stay
	rm -rf out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find hdl sw tb tests -name __pycache__ -prune -exec rm -rf {} +
