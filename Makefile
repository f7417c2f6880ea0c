# Every target sets up .venv by itself with pip; the second time that takes no time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready

.DEFAULT_GOAL := help

##@ Try it
demo: $(DEMO_READY) ## run the whole pipeline on the shipped clips with real models; lake in ./demo-lake
	$(BIN)/phonolake demo

##@ Work on it
WORKERS ?= 2
test: $(DEV_READY) ## run every test, in two processes (make test PYTEST_ARGS="-k decode" for some)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(PYTEST_ARGS)

lint: $(DEV_READY) ## ruff, mypy --strict, and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV_READY) ## run the benchmarks: ratios against named rivals, about two hours on 2 cores
	$(BIN)/python -m tests.bench.decode
	$(BIN)/python -m tests.bench.vad
	$(BIN)/python -m tests.bench.ingest
	$(BIN)/python -m tests.bench.small_objects
	$(BIN)/python -m tests.bench.transcribe
	$(BIN)/python -m tests.bench.transcribe --pack
	$(BIN)/python -m tests.bench.embed
	$(BIN)/python -m tests.bench.search
	$(BIN)/python -m tests.bench.long_recording
	$(BIN)/python -m tests.bench.plan
	$(BIN)/python -m tests.bench.driver
	$(BIN)/python -m tests.bench.report
	$(BIN)/python -m tests.bench.commit

ROUNDS ?= 200
chaos: $(DEV_READY) ## kill the real command at random times, hundreds of rounds (ROUNDS=20 for fewer)
	PHONOLAKE_CHAOS=1 $(BIN)/python -m pytest tests/pipelines/test_protocol.py tests/pipelines/test_interleavings.py \
		tests/end_to_end/test_protocol_on_s3.py tests/end_to_end/test_faults_on_s3.py
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS)

SECONDS ?= 600
fuzz: $(DEV_READY) ## throw changed and hostile files at the decoder and the tar reader (SECONDS=60 for less)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

clean: ## delete what make made, but for .venv
	rm -rf demo-lake build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("phonolake needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; say make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps Resemblyzer  # for its weights
	@touch $@ $(DEMO_READY)

.PHONY: demo test lint bench chaos fuzz clean help
