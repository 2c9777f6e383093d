# The two commands are `make book` and `make test`; `make help` lists the others.
# The work is done by book/Snakefile, pytest and pip; this file only prepares the environment.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PROFILE ?= ci
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
PORT ?= 8000
BIN := .venv/bin
READY := .venv/.ready
# The package is installed as this folder's src/: an environment copied with its tree is of another.
MOVED := $(shell test "$$(cat .venv/.ready 2>/dev/null)" = "$$(pwd -P)" || echo moved)
CODE := src tests book/*.py
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help book archive site pdf test test-gpu bench bench-gpu serve lock clean lint moved

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

book: $(READY) ## run the chapters, check the claims, build _build/html (PROFILE=smoke|ci|paper)
	@$(BIN)/python book/build.py --profile $(PROFILE) --cores $(CORES) --snakemake="$(SNAKEMAKE)"

archive: book ## the executed book as one zip with checksums, in _build (PROFILE=...)
	@$(BIN)/python book/archive.py pack --profile $(PROFILE)

site: $(READY) ## build _build/html from such a zip, without executing anything (ARCHIVE=file)
	@$(BIN)/python book/archive.py site "$(ARCHIVE)"

pdf: book ## the whole book as a PDF, which the home page links to (PROFILE=..., needs Chromium)
	@$(BIN)/python book/pdf.py

test: $(READY) ## run every test (ARGS="-k name" for some)
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder --durations=10 $(ARGS)

test-gpu: $(READY) ## run the kernels' tests on the GPU, compiled (fails without one)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  { echo "expected a CUDA device, found none: make test runs the kernels in Triton's interpreter" >&2; exit 1; }
	@$(BIN)/python -m pytest tests/kernels $(ARGS)

bench: $(READY) ## run tests/bench on one CPU core; writes book/measurements/bench_cpu.json
	@for script in tests/bench/*.py; do echo "== $$script"; \
	  $(BIN)/python $$script --json book/measurements/bench_cpu.json; done
	@$(BIN)/python tests/bench/kernels/run.py --device cpu --json book/measurements/bench_cpu.json

bench-gpu: $(READY) ## run the kernels' benchmark on a GPU, under 8 minutes; writes bench_gpu.json
	@$(BIN)/python tests/bench/kernels/run.py --device cuda --json book/measurements/bench_gpu.json

serve: ## show the built site at http://localhost:8000 (PORT=...)
	@test -f _build/html/index.html || { echo "no site: run 'make book' first" >&2; exit 1; }
	@"$(PYTHON)" -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lint: $(READY) ## ruff and mypy over src, tests and the chapters' cells; schemas of the workflows
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/python book/lint_chapters.py
	@$(BIN)/python -m mypy
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	@$(BIN)/zizmor --offline --quiet --min-severity medium .github
	@if command -v actionlint > /dev/null; then actionlint; \
	else echo "actionlint is not installed: ci.yml runs it"; fi

# torch's CUDA parts are left out of the lock: torch itself names them, where they apply.
lock: ## resolve pyproject.toml again into requirements.lock
	@"$(PYTHON)" -m venv _build/lock && _build/lock/bin/python -m pip install --quiet uv
	@_build/lock/bin/uv pip compile pyproject.toml --quiet --upgrade --python-version 3.11 \
	  --extra plot --extra images --extra book --extra test --extra browser --extra bench --extra dev --no-annotate --no-header \
	  --index-strategy unsafe-best-match --output-file _build/lock/requirements.txt
	@grep -vE '^(nvidia|cuda|--)' _build/lock/requirements.txt | \
	  sed -E 's/\+cpu//; s/^(triton==[^ ;]*).*/\1 ; sys_platform == "linux"/' > requirements.lock
	@echo "requirements.lock: $$(wc -l < requirements.lock) packages; now run make book && make test"

clean: ## remove everything that was built; the environment stays
	@rm -rf _build .pytest_cache .mypy_cache .ruff_cache

# The lock is complete, so nothing is resolved; but where torch is a CUDA build, which pip check finds
# to lack its parts, they are resolved in a second call. Compiled by all cores: pip would use one.
$(READY): requirements.lock pyproject.toml $(MOVED)
	@test -w . || { echo "expected a folder to write .venv in, found $$PWD read-only; use a copy of your own" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or later, found $$("$(PYTHON)" -V 2>&1); try make PYTHON=python3.12" >&2; exit 1; }
	@echo "environment: installing requirements.lock into .venv"
	@if command -v uv > /dev/null; then \
	  test -x $(BIN)/python || uv venv --quiet --python "$(PYTHON)" .venv; \
	  pip() { uv pip "$$@" --quiet --python $(BIN)/python; }; \
	else \
	  "$(PYTHON)" -m venv .venv; \
	  pip() { $(BIN)/python -m pip "$$@" --quiet --disable-pip-version-check; }; \
	fi; \
	pip install --no-deps --no-compile -r requirements.lock; \
	pip check > /dev/null 2>&1 || pip install -r requirements.lock; \
	pip install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true  # some files are templates
	@pwd -P > $@
