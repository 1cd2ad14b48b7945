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
# What submission packs: see its comment below. WHEELS= (empty) leaves the wheels out.
SUBMISSION ?= dist/submission.zip
TEAM ?= unnamed team
WHEELS ?= x86_64,aarch64
RUN ?=
RUN_OR_NEW = $(or $(RUN),build/submission-run)
LICENSE_TEXT ?= unspecified
FIT_ARGS ?=
# What lock uses, and for which extras; versions that are there stay where they fit.
UV ?= uv
LOCK_EXTRAS = export report baseline dev
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

PLATFORM := $(shell $(PYTHON) -c 'import platform, sys; print("py%d%d-%s" % (sys.version_info[:2] + (platform.machine(),)))' 2>/dev/null)
CONSTRAINTS := $(wildcard constraints/$(PLATFORM).txt)
PI_CONSTRAINTS := constraints/py$(subst .,,$(PI_PYTHON))-aarch64.txt

# Two environments: .venv has everything, .venv-slim only what runs on a Pi.
DEV := .venv/stamp-$(PLATFORM)
SLIM := .venv-slim/stamp-$(PLATFORM)
ifneq ($(findstring aarch64,$(PLATFORM)),)
EXTRAS ?= dev
else
EXTRAS ?= dev,export,report,baseline
endif

.PHONY: help
help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 18

.PHONY: demo
demo: $(SLIM)  ## Make a few photo-like images and classify them (slim environment)
	@mkdir -p build && rm -rf build/demo
	@.venv-slim/bin/edge-bench images build/demo --mix demo
	@status=0; .venv-slim/bin/edge-infer build/demo --topk 2 -o build/demo.csv --force || status=$$?; \
	if [ $$status -gt 1 ]; then echo "make demo: edge-infer failed with exit $$status" >&2; exit $$status; fi
	@echo
	@.venv-slim/bin/python -c "$$TABLE_PY" build/demo.csv
	@echo
	@echo "The images are generated, not skin: the labels mean nothing. The row with status error is a file broken on"
	@echo "purpose: it keeps its row, and the rest goes on (edge-infer then exits 1)."
	@echo "Next:  .venv-slim/bin/edge-infer YOUR_PHOTOS -o predictions.csv     edge-infer --help tells the rest"

.PHONY: bench
bench: $(SLIM)  ## Latency on the contest's mix of photos, beside the bound and the peers (some minutes)
	@.venv-slim/bin/python -m pip install -q $(CONSTRAINTS:%=-c %) -e ".[baseline]"
	@test -e build/mix/img_0100.jpg || .venv-slim/bin/edge-bench images build/mix -n 100
	@.venv-slim/bin/edge-bench latency build/mix --peer winners --peer naive --peer opencv-reduced --peer organisers \
	-o build/latency.json --force $(BENCH_ARGS)

.PHONY: bench-memory
bench-memory: $(SLIM)  ## Peak memory by kind of photo and number of workers
	@.venv-slim/bin/edge-bench memory

.PHONY: heldout
heldout: $(SLIM)  ## Reproduce the bundled model's held-out figures: make heldout DATA=path/to/ham10
	@test -d "$(DATA)" || { echo "usage: make heldout DATA=FOLDER, the folder of the data set" >&2; exit 2; }
	@mkdir -p build
	@list="$$(.venv-slim/bin/python -c "$$LIST_PY")" && \
	cd "$(DATA)" && "$(CURDIR)/.venv-slim/bin/edge-infer" "@$$list" -o "$(CURDIR)/build/heldout.csv" --force
	@.venv-slim/bin/edge-bench score build/heldout.csv --data "$(DATA)" --subset --group group --group sex --group age

.PHONY: results
results: $(SLIM)  ## Make the tables of research/results anew from the predictions there; no data set, no checkpoint
	@set -e; for folder in $(dir $(wildcard research/results/*/protocol.json)); do \
	.venv-slim/bin/python -m research tables "$$folder" -o "$${folder}tables.md" --force; echo "$${folder}tables.md"; done

.PHONY: pages
pages: $(DEV)  ## Report pages of the same predictions, in build/results; no data set, no checkpoint
	@set -e; for folder in $(dir $(wildcard research/results/*/protocol.json)); do \
	out="build/results/$$(basename "$$folder")"; rm -rf "$$out"; \
	.venv/bin/python -m research tables "$$folder" --results "$$out" > /dev/null; \
	.venv/bin/edge-bench report "$$out"/*.json -o "$$out/page"; echo "$$out/page/index.html"; done

.PHONY: route
route: $(DEV)  ## From pictures to predictions in a few minutes: make route DATA=path/to/ham10 (ROUTE_ARGS: of edge-train fit)
	@test -d "$(DATA)" || { echo "usage: make route DATA=FOLDER, the folder of the data set" >&2; exit 2; }
	@rm -rf build/route && mkdir -p build/route
	.venv/bin/edge-train folds "$(DATA)" -o build/route/folds.csv
	.venv/bin/edge-train fit "$(DATA)" --folds build/route/folds.csv --hold-out 0 --out build/route/run $(ROUTE_ARGS)
	.venv/bin/edge-export onnx build/route/run -o build/route/model.onnx
	.venv/bin/edge-export int8 build/route/model.onnx --calibrate "$(DATA)" --held-out build/route/run/heldout.txt \
	-o build/route/model.int8.onnx
	.venv/bin/edge-export verify build/route/run build/route/model.onnx --data "$(DATA)" --subset build/route/run/heldout.txt
	.venv/bin/edge-export verify build/route/model.onnx build/route/model.int8.onnx --data "$(DATA)" \
	--subset build/route/run/heldout.txt
	cd "$(DATA)" && "$(CURDIR)/.venv/bin/edge-infer" "@$(CURDIR)/build/route/run/heldout.txt" \
	-m "$(CURDIR)/build/route/model.int8.onnx" -o "$(CURDIR)/build/route/predictions.csv"
	.venv/bin/edge-bench score build/route/predictions.csv --data "$(DATA)" --subset

.PHONY: install-pi
install-pi: check-python  ## Install the commands into VENV (default ~/fairedge-venv); OFFLINE=DIR: from a wheelhouse
	@if [ -e "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ]; then \
	echo "$(VENV) exists and is no virtual environment: choose another folder with VENV=" >&2; exit 2; fi
	@echo "Installing into $(VENV) (about 45 MB of packages)"
	@$(PYTHON) -m venv "$(VENV)"
ifeq ($(OFFLINE),)
	@$(FRESH_BUILD)
	@"$(VENV)/bin/python" -m pip install -q $(CONSTRAINTS:%=-c %) .
else
	@"$(VENV)/bin/python" -m pip install -q --no-index --find-links "$(OFFLINE)" $(CONSTRAINTS:%=-c %) fairedge
	@"$(VENV)/bin/python" -m pip install -q --no-index --find-links "$(OFFLINE)" --no-deps --force-reinstall fairedge
endif
	@"$(VENV)/bin/edge-infer" --check
	@echo 'Run:   "$(VENV)/bin/edge-infer" YOUR_PHOTOS -o predictions.csv'
	@echo 'Short: . "$(VENV)/bin/activate" once in a terminal, then edge-infer and edge-bench'

.PHONY: wheelhouse
wheelhouse: $(SLIM)  ## Fill DIR (default wheelhouse) with all a Pi without network needs; PI_PYTHON=3.13 for trixie
	@mkdir -p "$(DIR)" && rm -f "$(DIR)"/fairedge-*.whl
	@$(FRESH_BUILD)
	@.venv-slim/bin/python -m pip wheel -q --no-deps -w "$(DIR)" .
	@.venv-slim/bin/python -m pip download -q -d "$(DIR)" $(FOR_PI) -c $(PI_CONSTRAINTS) "$(DIR)"/fairedge-*.whl
	@echo "Copy this checkout and $(DIR) to the Pi, then there:"
	@echo '  make install-pi OFFLINE="$(DIR)"'

# DATA trains first, RUN takes a run that is there, neither takes the bundled model. LICENSE_TEXT: of your weights.
.PHONY: submission
submission: $(DEV)  ## What the contest asks for, packed and tried: [DATA=..|RUN=..] SUBMISSION=dist/submission.zip TEAM=..
	@mkdir -p build "$(dir $(SUBMISSION))"
ifneq ($(and $(DATA),$(RUN)),)
	@echo "make submission: got DATA and RUN, expected one of them: DATA trains, RUN is trained already" >&2; exit 2
endif
ifneq ($(DATA),)
	@.venv/bin/edge-train folds "$(DATA)" -o build/submission-folds.csv --force
	@.venv/bin/edge-train fit "$(DATA)" --folds build/submission-folds.csv --hold-out 0 --out "$(RUN_OR_NEW)" $(FIT_ARGS)
endif
ifneq ($(DATA)$(RUN),)
	@.venv/bin/edge-export onnx "$(RUN_OR_NEW)" -o build/submission.onnx --license "$(LICENSE_TEXT)" --force
endif
ifneq ($(DATA),)
	@.venv/bin/edge-export verify "$(RUN_OR_NEW)" build/submission.onnx --data "$(DATA)" --subset "$(RUN_OR_NEW)/heldout.txt"
endif
	@.venv/bin/edge-submit pack $(if $(DATA)$(RUN),-m build/submission.onnx --checkpoint "$(RUN_OR_NEW)") --team "$(TEAM)" \
	$(WHEELS:%=--wheels %) -o "$(SUBMISSION)" --force
	@.venv/bin/edge-submit check "$(SUBMISSION)" $(CHECK_ARGS)

.PHONY: test
test: $(DEV)  ## Tests (some minutes; no data set, no network)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

.PHONY: research-test
research-test: $(DEV)  ## Tests of research/, and that its tables are those of its predictions
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(JOBS) research/tests $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(DEV)  ## The tests that take longer
	@.venv/bin/python -m pytest -q -m "slow and not pi and not pi4b and not gpu" $(PYTEST_ARGS)

.PHONY: test-wheel
test-wheel: $(DEV)  ## Build the wheel, install it in a clean environment, run its commands
	@.venv/bin/python -m pytest -q -m wheel $(PYTEST_ARGS)

# Debian's names of what the emulation runs; installed by test-pi4b where that needs no password.
PI4B_PACKAGES = qemu-user mmdebstrap debian-archive-keyring gcc libc6-dev util-linux

.PHONY: test-pi4b
test-pi4b: $(DEV) pi4b-install  ## The wheel under emulation of a Raspberry Pi 4B's processor, beside x86
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m pi4b tests/test_bench_pi4b_emulated.py $(PYTEST_ARGS)

.PHONY: pi4b
pi4b: $(DEV) pi4b-tools  ## Modelled time on a Raspberry Pi 4B, beside the winners' runtime (some minutes)
	@.venv/bin/edge-bench pi4b --peer winners $(BENCH_ARGS)

.PHONY: pi4b-networks
pi4b-networks: $(DEV) pi4b-tools  ## Modelled time of other networks, random weights (about half an hour)
	@.venv/bin/python -m research.random_models build/networks
	@.venv/bin/edge-bench pi4b --no-photos $$(printf -- '-m %s ' build/networks/*.onnx) -o build/pi4b-networks.json --force

.PHONY: check-cost
check-cost: $(DEV) pi4b-install  ## Fails when a region costs over 2 % more on a Pi 4B than docs/pi4b-cost.json says
	@status=0; .venv/bin/python -m bench.pi4b.ready docs/pi4b-cost.json || status=$$?; \
	case $$status in \
	0) .venv/bin/edge-bench pi4b --baseline docs/pi4b-cost.json;; \
	77) echo "make check-cost: SKIPPED, for the reason above";; \
	*) exit $$status;; \
	esac

.PHONY: baseline-cost
baseline-cost: $(DEV) pi4b-tools  ## Write docs/pi4b-cost.json anew
	@.venv/bin/edge-bench pi4b -o docs/pi4b-cost.json --force

# What could not be installed is named by what needs it: the tests and check-cost are skipped, edge-bench exits 5.
.PHONY: pi4b-install
pi4b-install: $(DEV)
	@.venv/bin/python -m bench.pi4b.tools 2>/dev/null || { \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null && timeout 120 apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -yqq --no-install-recommends $(PI4B_PACKAGES); \
	} >/dev/null 2>&1 || true

.PHONY: pi4b-tools
pi4b-tools: pi4b-install
	@.venv/bin/python -m bench.pi4b.tools

.PHONY: lint
lint: $(DEV)  ## flake8
	@.venv/bin/python -m flake8 edge bench train export research tests tools

.PHONY: type
type: $(DEV)  ## mypy, strict
	@.venv/bin/python -m mypy

.PHONY: wheel
wheel: $(DEV)  ## Source archive and wheel in dist/
	@$(FRESH_BUILD)
	@.venv/bin/python -m build --outdir dist .

.PHONY: wheel-sizes
wheel-sizes: $(SLIM)  ## What `pip install .` brings to a Pi; fails above 60 MB
	@rm -rf build/wheel-sizes && mkdir -p build/wheel-sizes
	@$(FRESH_BUILD)
	@.venv-slim/bin/python -m pip wheel -q --no-deps -w build/wheel-sizes .
	@.venv-slim/bin/python -m pip download -q -d build/wheel-sizes $(FOR_PI) -c $(PI_CONSTRAINTS) build/wheel-sizes/fairedge-*.whl
	@.venv-slim/bin/python -c "$$WHEEL_SIZES_PY" build/wheel-sizes 60

.PHONY: lock
lock:  ## Complete constraints/*.txt by uv (pip install uv); LOCK_ARGS=--upgrade takes newer versions
	@set -e; for file in constraints/py*-*.txt; do \
	target=$$(basename "$$file" .txt); machine=$${target#*-}; python=3.$${target#py3}; python=$${python%-*}; \
	echo "torch==$(TORCH)" | $(UV) --config-file constraints/uv.toml pip compile -q --no-header --no-annotate \
	--python-version $$python --python-platform $$machine-manylinux_2_28 $(LOCK_EXTRAS:%=--extra %) $(LOCK_ARGS) \
	-o "$$file" setup.cfg - > /dev/null; \
	sed -i "1i # Python $$python, Linux $$machine. Written by \`make lock\`." "$$file"; echo "$$file"; done

.PHONY: clean
clean:  ## Remove what was built; the environments .venv and .venv-slim stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache
	find edge bench train export tests tools -name __pycache__ -prune -exec rm -rf {} +

.PHONY: check-python
check-python:
	@$(PYTHON) -c "$$CHECK_PY"

# An environment is rebuilt for another Python, and updated when what it installs changes (an editable install
# knows the packages there were when it was made).
NEEDS := setup.cfg pyproject.toml $(CONSTRAINTS) $(wildcard edge/__init__.py bench/__init__.py train/__init__.py export/__init__.py)
NEW_VENV = { test -e $@ && $(PYTHON) -m venv $(@D) 2>/dev/null; } || $(PYTHON) -m venv --clear $(@D)

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

# Short programs, run from the environment variable of the same name.
define CHECK_PY
import struct, sys
bits, version = 8 * struct.calcsize("P"), "%d.%d" % sys.version_info[:2]
if bits != 64 or sys.version_info < (3, 11):
    sys.exit("FairEdge needs 64-bit Python 3.11 or later, got %d-bit Python %s: make PYTHON=..., or a 64-bit system" % (bits, version))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python %s lacks venv: sudo apt install python3-venv" % version)
endef

define LIST_PY
from edge.classifier import DEFAULT_MODEL as model
print(model.with_name(model.name.replace(".int8.onnx", ".heldout.txt")))
endef

define TABLE_PY
import csv, sys
columns = "path", "label", "confidence", "top2_label", "top2_confidence", "status", "error"
rows = [[row[name][:48] for name in columns] for row in csv.DictReader(open(sys.argv[1], encoding="utf-8"))]
widths = [max(map(len, column)) for column in zip(columns, *rows)]
for row in [columns, *rows]:
    print("  ".join(map(str.ljust, row, widths)).rstrip())
endef

define WHEEL_SIZES_PY
import pathlib, sys
wheels = sorted(pathlib.Path(sys.argv[1]).glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
for wheel in wheels:
    print("%6.1f MB  %s" % (wheel.stat().st_size / 1e6, wheel.name))
total, limit = sum(wheel.stat().st_size for wheel in wheels) / 1e6, float(sys.argv[2])
print("%6.1f MB  in all, at most %.0f" % (total, limit))
sys.exit(6 if total > limit else 0)
endef

export CHECK_PY LIST_PY TABLE_PY WHEEL_SIZES_PY
