# What users, developers and CI run. `make` alone lists it. Needs make and Python with venv, nothing else.

PYTHON ?= python3
# CPU builds of PyTorch: what the package index itself offers brings several GB of CUDA to every Linux.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= 2.13.0
# Where install-pi puts the commands, and a folder made by `make wheelhouse` when there is no network.
VENV ?= $(HOME)/fairedge-venv
OFFLINE ?=
# Where wheelhouse puts the wheels, and for which Python: 3.11 (bookworm) or 3.13 (trixie).
DIR ?= wheelhouse
PI_PYTHON ?= 3.11
# What submission packs: see tools/submission.sh. WHEELS= (empty) leaves the wheels out.
SUBMISSION ?= dist/submission.zip
TEAM ?= unnamed team
WHEELS ?= x86_64,aarch64
RUN ?=
LICENSE_TEXT ?= unspecified
FIT_ARGS ?=
LOCK_ARGS ?=
CHECK_ARGS ?=
PYTEST_ARGS ?=
# Processes that share the tests; each may take a gigabyte.
JOBS ?= 2
BENCH_ARGS ?=
# A short training, to see every step work; the default recipe takes an hour or two on one core.
ROUTE_ARGS ?= --num-conv-branches 1 --sizes-px 64 --epochs 8

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1
.DELETE_ON_ERROR:
.PHONY: help demo bench heldout results pages route install install-train install-pi wheelhouse submission test research-test test-slow \
	test-wheel test-pi4b pi4b pi4b-networks check-cost baseline-cost pi4b-install lint house type wheel wheel-sizes \
	lock clean check-python

PLATFORM := $(shell $(PYTHON) -c 'import platform, sys; print("py%d%d-%s" % (sys.version_info[:2] + (platform.machine(),)))' 2>/dev/null)
CONSTRAINTS := $(wildcard constraints/$(PLATFORM).txt)
PI_CONSTRAINTS := constraints/py$(subst .,,$(PI_PYTHON))-aarch64.txt

# Two environments: .venv has what was asked for (install, install-train, or all of it for the tests), .venv-slim only
# what runs on a Pi.
INSTALLED := .venv/slim-$(PLATFORM)
TRAINING := .venv/train-$(PLATFORM)
DEV := .venv/stamp-$(PLATFORM)
SLIM := .venv-slim/stamp-$(PLATFORM)
ifneq ($(findstring aarch64,$(PLATFORM)),)
EXTRAS ?= dev
else
EXTRAS ?= dev,export,report,baseline
endif

TRAIN_EXTRAS ?= export,report

help:  ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' Makefile | expand -t 18

demo: $(SLIM)  ## Make a few photo-like images and classify them (slim environment)
	@mkdir -p build && rm -rf build/demo
	@.venv-slim/bin/edge-bench images -o build/demo --mix demo
	@status=0; .venv-slim/bin/edge-infer build/demo || status=$$?; \
	if [ $$status -gt 1 ]; then echo "make demo: edge-infer failed with exit $$status" >&2; exit $$status; fi
	@echo
	@echo "The images are generated, not skin: the labels mean nothing. One file is broken on purpose: its row says why."
	@echo "Next:  .venv-slim/bin/edge-infer YOUR_PHOTOS -o predictions.csv     edge-infer --help tells the rest"

bench: $(SLIM)  ## Latency on the contest's mix of photos, beside the bound and the peers (some minutes)
	@.venv-slim/bin/python -m pip install -q $(CONSTRAINTS:%=-c %) -e ".[baseline]"
	@test -e build/mix/img_0100.jpg || .venv-slim/bin/edge-bench images -o build/mix -n 100
	@.venv-slim/bin/edge-bench latency build/mix --peer winners --peer naive --peer opencv-reduced --peer organisers \
	-o build/latency.json --force $(BENCH_ARGS)

heldout: $(SLIM)  ## Reproduce the bundled model's held-out figures: make heldout DATA=path/to/ham10
	@test -d "$(DATA)" || { echo "usage: make heldout DATA=FOLDER, the folder of the data set" >&2; exit 2; }
	@mkdir -p build
	@list="$$(.venv-slim/bin/python -c 'from edge.classifier import DEFAULT_MODEL; print(DEFAULT_MODEL)')" && \
	.venv-slim/bin/edge-infer --root "$(DATA)" "@$${list%.int8.onnx}.heldout.txt" -o build/heldout.csv --force
	@.venv-slim/bin/edge-bench score build/heldout.csv --data "$(DATA)" --subset --group group --group sex --group age

results: $(SLIM)  ## Make the tables of research/results anew from the predictions there; no data set, no checkpoint
	@sh tools/tables.sh .venv-slim/bin/python

pages: $(DEV)  ## Report pages of the same predictions, in build/results; no data set, no checkpoint
	@sh tools/tables.sh .venv/bin/python pages

route: $(DEV)  ## From pictures to predictions in a few minutes: make route DATA=path/to/ham10 (ROUTE_ARGS: of edge-train fit)
	@test -d "$(DATA)" || { echo "usage: make route DATA=FOLDER, the folder of the data set" >&2; exit 2; }
	@sh tools/route.sh "$(DATA)" $(ROUTE_ARGS)

install: $(INSTALLED)  ## edge-infer and edge-bench into .venv (about 45 MB of packages)
	@echo "Installed: .venv/bin/edge-infer, .venv/bin/edge-bench. By name after:  . .venv/bin/activate"

install-train: $(TRAINING)  ## All commands into .venv, with a CPU PyTorch to train with; without the tests
	@echo "Installed: edge-train, edge-export and the others in .venv/bin. By name after:  . .venv/bin/activate"

install-pi: check-python  ## Install the commands into VENV (default ~/fairedge-venv); OFFLINE=DIR: from a wheelhouse
	@OFFLINE="$(OFFLINE)" sh tools/install_pi.sh "$(PYTHON)" "$(VENV)" $(CONSTRAINTS)

wheelhouse: $(SLIM)  ## Fill DIR (default wheelhouse) with all a Pi without network needs; PI_PYTHON=3.13 for trixie
	@mkdir -p "$(DIR)" && rm -f "$(DIR)"/fairedge-*.whl
	@$(FRESH_BUILD)
	@.venv-slim/bin/python -m pip wheel -q --no-deps -w "$(DIR)" .
	@.venv-slim/bin/python -m pip download -q -d "$(DIR)" $(FOR_PI) -c $(PI_CONSTRAINTS) "$(DIR)"/fairedge-*.whl
	@echo "Copy this checkout and $(DIR) to the Pi, then there:"
	@echo '  make install-pi OFFLINE="$(DIR)"'

submission: $(DEV)  ## What the contest asks for, packed and tried: [DATA=..|RUN=..] SUBMISSION=dist/submission.zip TEAM=..
	@DATA="$(DATA)" RUN="$(RUN)" SUBMISSION="$(SUBMISSION)" TEAM="$(TEAM)" WHEELS="$(WHEELS)" FIT_ARGS="$(FIT_ARGS)" \
	LICENSE_TEXT="$(LICENSE_TEXT)" CHECK_ARGS="$(CHECK_ARGS)" sh tools/submission.sh

test: $(DEV)  ## Tests (some minutes; no data set, no network)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

research-test: $(DEV)  ## Tests of research/, and that its tables are those of its predictions
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(JOBS) research/tests $(PYTEST_ARGS)

test-slow: $(DEV)  ## The tests that take longer
	@.venv/bin/python -m pytest -q -m "slow and not pi and not pi4b and not gpu" $(PYTEST_ARGS)

test-wheel: $(DEV)  ## Build the wheel, install it in a clean environment, run its commands
	@.venv/bin/python -m pytest -q -m wheel $(PYTEST_ARGS)

# Debian's names of what the emulation runs; installed by test-pi4b where that needs no password.
PI4B_PACKAGES = qemu-user mmdebstrap debian-archive-keyring gcc libc6-dev util-linux

test-pi4b: $(DEV) pi4b-install  ## The wheel under emulation of a Raspberry Pi 4B's processor, beside x86
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m pi4b tests/test_bench_pi4b_emulated.py $(PYTEST_ARGS)

pi4b: $(DEV) pi4b-install  ## Modelled time on a Raspberry Pi 4B, beside the winners' runtime (some minutes)
	@.venv/bin/edge-bench pi4b --peer winners $(BENCH_ARGS)

pi4b-networks: $(DEV) pi4b-install  ## Modelled time of other networks, random weights (about half an hour)
	@.venv/bin/python -m research.random_models build/networks
	@.venv/bin/edge-bench pi4b --no-photos $$(printf -- '-m %s ' build/networks/*.onnx) -o build/pi4b-networks.json --force

check-cost: $(DEV) pi4b-install  ## Fails when a region costs over 2 % more on a Pi 4B than docs/pi4b-cost.json says
	@.venv/bin/edge-bench pi4b --baseline docs/pi4b-cost.json || { status=$$?; test $$status = 5 || exit $$status; \
	echo "make check-cost: SKIPPED, for the reason above"; }

baseline-cost: $(DEV) pi4b-install  ## Write docs/pi4b-cost.json anew
	@.venv/bin/edge-bench pi4b -o docs/pi4b-cost.json --force

# What could not be installed is named by what needs it: the tests and check-cost are skipped, edge-bench exits 5.
pi4b-install: $(DEV)
	@.venv/bin/python -m bench.pi4b.programs 2>/dev/null || { \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null && timeout 120 apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -yqq --no-install-recommends $(PI4B_PACKAGES); \
	} >/dev/null 2>&1 || true

lint: $(DEV)  ## flake8
	@.venv/bin/python -m flake8 edge bench train export research tests tools

house: check-python  ## Sizes of modules, functions and folders, and how many commands and flags there are
	@$(PYTHON) tools/house.py --check

type: $(DEV)  ## mypy, strict
	@.venv/bin/python -m mypy

wheel: $(DEV)  ## Source archive and wheel in dist/
	@$(FRESH_BUILD)
	@.venv/bin/python -m build --outdir dist .

wheel-sizes: $(SLIM)  ## What `pip install .` brings to a Pi; fails above 60 MB
	@rm -rf build/wheel-sizes && $(MAKE) -s wheelhouse DIR=build/wheel-sizes > /dev/null
	@.venv-slim/bin/python tools/wheel_sizes.py build/wheel-sizes 60

lock:  ## Complete constraints/*.txt by uv (pip install uv); LOCK_ARGS=--upgrade takes newer versions
	@sh tools/lock.sh $(TORCH) $(LOCK_ARGS)

clean:  ## Remove what was built; the environments .venv and .venv-slim stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache
	find edge bench train export research tests tools -name __pycache__ -prune -exec rm -rf {} +

check-python:
	@$(PYTHON) tools/check_python.py

# An environment is rebuilt for another Python, and updated when what it installs changes (an editable install
# knows the packages there were when it was made).
NEEDS := setup.cfg pyproject.toml $(CONSTRAINTS) $(wildcard edge/__init__.py bench/__init__.py train/__init__.py export/__init__.py)
NEW_VENV = { ls $(@D)/*-$(PLATFORM) >/dev/null 2>&1 && $(PYTHON) -m venv $(@D) 2>/dev/null; } || $(PYTHON) -m venv --clear $(@D)

$(INSTALLED): $(NEEDS) | check-python
	@$(NEW_VENV)
	@.venv/bin/python -m pip install -q $(CONSTRAINTS:%=-c %) -e .
	@touch $@

$(TRAINING): $(NEEDS) | check-python
	@echo "Installing into .venv: $(TRAIN_EXTRAS) (once; a few minutes)"
	@$(NEW_VENV)
	@.venv/bin/python -m pip install -qq --retries 1 --extra-index-url $(TORCH_INDEX) $(CONSTRAINTS:%=-c %) torch==$(TORCH)
	@.venv/bin/python -m pip install -q $(CONSTRAINTS:%=-c %) -e ".[$(TRAIN_EXTRAS)]"
	@touch $@

$(DEV): $(NEEDS) | check-python
	@echo "Installing into .venv: $(EXTRAS) (once; a few minutes)"
	@$(NEW_VENV)
ifneq ($(findstring export,$(EXTRAS)),)
	@.venv/bin/python -m pip install -qq --retries 1 --extra-index-url $(TORCH_INDEX) $(CONSTRAINTS:%=-c %) torch==$(TORCH)
endif
	@.venv/bin/python -m pip install -q $(CONSTRAINTS:%=-c %) -e ".[$(EXTRAS)]"
	@touch $@

$(SLIM): $(NEEDS) | check-python
	@echo "Installing into .venv-slim (once; about 45 MB of packages)"
	@$(NEW_VENV)
	@.venv-slim/bin/python -m pip install -q $(CONSTRAINTS:%=-c %) -e .
	@touch $@

# setuptools copies into build/ and never deletes there: a file since removed would be in the wheel.
FRESH_BUILD = rm -rf build/lib build/bdist.*

FOR_PI = --only-binary=:all: --implementation cp --python-version $(PI_PYTHON) \
	$(patsubst %,--platform manylinux_2_%_aarch64,17 24 26 27 28) --platform manylinux2014_aarch64
