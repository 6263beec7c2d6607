# make train   set up once, then fine-tune the built-in demo (ARGS="..." adds options)
# make test    set up once, then run the tests; make test-all: the slow counts too
# make setup   the set-up alone
#
# PYTHON=python3.11   the interpreter that makes .venv
# TORCH_INDEX=<url>   the index PyTorch comes from, as on its install page: the one for CUDA 12.6 on V100 cards, the CPU
#                     one on a machine without a GPU where the default build would bring CUDA along
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
ARGS ?=
# Most tests start processes of their own and wait: four at a time keep two cores busy.
WORKERS ?= 4
BIN := .venv/bin
# The demo's batch of 64 divides by these.
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
RANKS := $(firstword $(foreach n,8 4 2 1,$(shell test $(GPUS) -ge $(n) && echo $(n))))
ifeq ($(GPUS),0)
RANKS := 2
export DS_ACCELERATOR := cpu
endif
ifdef CUDA_VISIBLE_DEVICES
comma := ,
RANKS := $(words $(subst $(comma), ,$(CUDA_VISIBLE_DEVICES)))
endif

.PHONY: setup train test test-all lint
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv || { echo "no venv module: on Debian and Ubuntu install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

train: setup
	$(BIN)/mat-ds train --ranks $(RANKS) --ds_config ds_configs/zero2.json $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-all: setup
	WHOLE_GRIDS=1 $(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
