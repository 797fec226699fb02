# SPDX-License-Identifier: Apache-2.0
# Needs make and Python 3.11 or newer; everything else is installed into .venv.
#   make demo    from nothing to a one-step student and its report (PRESET=smoke|quick|pilot|full)
#   make libero  the simulator LIBERO too: half a gigabyte to load, 1.3 GB on disk
#   make test    the tests, on the CPU
#   make test-gpu  a minute of tests that compare a GPU with the CPU
#   make lint    ruff, and files with loose ends; make format rewrites
#   make types   mypy, strict, over the packages that [mypy] in setup.cfg lists

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PRESET ?= quick
OUT ?= runs/demo
# Test files side by side, one process a core, in the order of tests/conftest.py: the slow ones begin first.
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# One thread per process: two OpenMP teams on two cores slow each other down many times over.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

# Without bytecode on disk every process that a job or a test starts would compile the libraries anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install libero demo test test-gpu lint types format clean

help:
	@sed -n 's/^#   \(make .*\)/  \1/p' Makefile

install: $(STAMP)

# Constraints reach isolated builds too, so that building deepspeed cannot pull another torch. Without an NVIDIA GPU the
# CPU build of torch is preferred where its index can be reached: it is a tenth of the size.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv module; on Debian or Ubuntu: apt-get install python3-venv"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), 1 to 3 minutes"
	@index=https://download.pytorch.org/whl/cpu; extra=; \
	if ! command -v nvidia-smi >/dev/null && $(BIN)/python -c \
		"import urllib.request as u; u.urlopen('$$index/torch/', timeout=5)" 2>/dev/null; \
	then extra="--extra-index-url $$index"; fi; \
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt \
	$(BIN)/python -m pip install -q -q --no-compile $$extra -e '.[sim,report,serve,lingbot,lora,dev]'
	@touch $@

# Without dependencies, see setup.cfg; what was installed above has the rest.
libero: $(STAMP)
	@echo "installing LIBERO into $(VENV), 1 to 3 minutes"
	$(BIN)/python -c "import configparser as c; p = c.ConfigParser(); p.read('setup.cfg'); \
		print(p['options.extras_require']['libero'])" | \
		$(BIN)/python -m pip install -q --no-compile --no-deps -c constraints.txt -r /dev/stdin
	$(BIN)/python -c "from flashwam.sim.libero.packages import require_packages; require_packages()"

demo: $(STAMP)
	$(BIN)/flashwam demo --preset $(PRESET) --out $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-gpu: $(STAMP)
	FLASHWAM_TEST_DEVICE=$${FLASHWAM_TEST_DEVICE:-cuda} $(BIN)/python -m pytest tests/gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_files.py

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
