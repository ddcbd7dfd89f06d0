# make setup   the environment in .venv, and no more
# make serve-env  the environment with the server of `tlopt serve`, in .venv/serve
# make cpp-headers  the C++ headers of ONNX Runtime for tests, in build/onnxruntime (Debian and its kin)
# make demo    photos of solar cells -> fine-tuned, pruned, quantized, built, measured; ends with runs/solar-cells/report
# make test    all tests, in as many processes as there are cores
# make test-fast   the same without the slow ones
# make check   linters, types, import rules, generated docs, length of sentences
# make docs-site   the documentation site, in build/site
# make robustness  a minute of kills, damaged files and limits
# make resolve     whether the extras for GPUs can be installed, on Python 3.11 to 3.13

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVE := $(VENV)/serve
# The server runs Python models in 3.8 to 3.13.
SERVE_PYTHON ?= $(PYTHON)
# Workers take tests from the front of one list, in ever smaller parts: none is left alone with a long one at the end.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist load
EXTRAS := cpu,rtx,lean,demo,audit,optimize,keras,parquet,loadgen,docs,dev

# Without compiled files each process of the tests compiles all that it imports once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup serve-env cpp-headers demo test test-fast coverage check docs docs-site clean robustness resolve

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tlopt needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

serve-env: $(SERVE)/.installed

$(SERVE)/.installed: $(STAMP) constraints-serve.txt
	$(SERVE_PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement constraints-serve.txt
	touch $@

cpp-headers:
	tests/deployment/headers.sh build/onnxruntime

demo: $(STAMP)
	$(BIN)/python examples/solar_cells.py build/solar-cells
	$(BIN)/tlopt run examples/solar-cells.toml

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

coverage: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) --cov=tlopt --cov-report=term:skip-covered

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/prose.py --check

docs: $(STAMP)
	$(BIN)/python docs/generate.py

robustness: $(STAMP)
	$(BIN)/python benchmarks/robustness.py --short

resolve: $(STAMP)
	$(BIN)/python benchmarks/resolve.py

docs-site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist runs
