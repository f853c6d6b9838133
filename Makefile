# `make demo` and `make test` do all the set-up that they need; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DATA ?=
# A second environment with the newest torch and torchvision (their CUDA builds, about 5.5 GB), and what else is compared with
PEERS_VENV ?= .venv-torchvision

# One process per core, each with one file of tests at a time, for its fixtures; waiting threads leave the core free.
SIDE_BY_SIDE := -n auto --dist loadfile -p no:benchmark
test test-torchvision: export OMP_WAIT_POLICY := passive

BIN := $(VENV)/bin
PEERS_BIN := $(PEERS_VENV)/bin
SOURCES := $(shell find csrc cmake -type f 2>/dev/null) CMakeLists.txt setup.py pyproject.toml

.PHONY: help install build demo test test-slow test-kernels test-torchvision test-wheel bench kernel-report gpu-check docs wheel sdist matrix lint format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 20

install: $(VENV)/.built  ## the set-up alone: .venv, pinned requirements, the built package
build: install           ## build again what changed

$(VENV)/.requirements: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"Python 3.10 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt  # 20 s less: Python compiles what it imports
	@touch $@

$(VENV)/.built: $(VENV)/.requirements $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@$(BIN)/retinanet-fast info
	@touch $@

demo: install  ## train on a rendered data set (or DATA=DIR), detect, and leave runs/demo/report.html
	$(BIN)/retinanet-fast demo --out runs/demo $(if $(DATA),--data $(DATA))

test: install  ## all tests of the default environment but the slow ones
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-slow: install  ## adds an op in a copy of the tree, as csrc/README.md says: compiles the extension once more
	$(BIN)/python -m pytest -m slow

test-kernels: install  ## the CUDA kernels, run on the CPU by an emulator that checks every access
	$(BIN)/python tests/emulator/run.py

$(PEERS_VENV)/.requirements: requirements.txt
	test -x $(PEERS_BIN)/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_BIN)/python -m pip install --quiet --no-compile torch torchvision fvcore timm accelerate lightning
	grep -v '^torch==' requirements.txt > $(PEERS_VENV)/requirements.txt
	$(PEERS_BIN)/python -m pip install --quiet --no-compile -r $(PEERS_VENV)/requirements.txt
	@touch $@

# `pytest`, not `python -m pytest`: tests the installed package, not this folder's, which has the other build's module.
test-torchvision: $(PEERS_VENV)/.requirements  ## a second environment: newest torch, CUDA part linked, torchvision compared
	PATH="$(abspath $(PEERS_BIN)):$$PATH" $(PEERS_BIN)/python -m pip install --quiet --no-build-isolation --no-deps --force-reinstall .
	cd / && $(abspath $(PEERS_BIN))/retinanet-fast info
	$(PEERS_BIN)/pytest $(SIDE_BY_SIDE) -m 'not default_environment and not slow'

wheel: install  ## a wheel for the torch of .venv, in dist/; `make sdist`: the source distribution
	$(BIN)/python -m wheels

sdist: install
	$(BIN)/python -m wheels --sdist

test-wheel: install  ## a wheel built from the source distribution, in a clean environment: selftest and some tests
	$(BIN)/python -m wheels.matrix --no-table

matrix: install  ## the same on many Pythons and torches, those of CELLS=3.12:2.8 or a default list; writes the table
	$(BIN)/python -m wheels.matrix $(or $(CELLS),default)

bench: install  ## all benchmarks, a table and a chart
	$(BIN)/retinanet-fast bench

kernel-report: install  ## the CUDA kernels' machine code, what whole calls do, and predicted times
	$(BIN)/python -m benchmarks.kernel_report

gpu-check:  ## on a GPU machine, with PYTHON the one that has torch: build, test, sanitize, measure
	$(PYTHON) -m benchmarks.gpu_check

$(VENV)/.docs: docs/requirements.txt $(VENV)/.built
	$(BIN)/python -m pip install --quiet --no-compile -r docs/requirements.txt
	@touch $@

# -n -W: a reference that does not resolve, or any other warning, is an error.
docs: $(VENV)/.docs  ## the documentation, in docs/_build/html/index.html
	rm -rf docs/_build
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/check_site.py docs/_build/html

lint: $(VENV)/.requirements  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

format: $(VENV)/.requirements  ## let the formatters change the files, and write _C.pyi
	$(BIN)/python cmake/generate_bindings.py stub csrc/tensor/*.cpp > retinanet_fast/_C.pyi
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

clean:  ## builds and caches; runs/ stays
	rm -rf build dist docs/_build retinanet_fast/*.so *.egg-info $(VENV) $(PEERS_VENV) .pytest_cache .mypy_cache .ruff_cache
