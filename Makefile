# make demo   the whole chain on the embedded sample set, about ten minutes on 2 cores
# make test   the linters and the whole suite
# make docs   the site, in site/
# make lock   requirements*.lock anew, by uv, after a requirements file was changed
# Each makes .venv and installs what it needs by itself: from the lock files, whose hashes are checked, and torch last,
# whose build is the machine's (docs/decisions/015-torch-has-no-hash.md).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs lock

demo: .venv/runtime
	$(BIN)/python compress.py

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

.venv/runtime: requirements.txt requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/dev: requirements-dev.txt requirements-docs.txt requirements-clients.txt requirements.txt requirements-dev.lock requirements-clients.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-clients.lock
	touch $@ .venv/runtime

# torch comes last, from where its makers say, and brings what its build needs: docs/decisions/015-torch-has-no-hash.md
CUDA := $(addprefix cuda-,bindings pathfinder toolkit) triton $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc cuda-runtime \
  cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
UV := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header
WITHOUT_TORCH := $(foreach package,torch $(CUDA),--no-emit-package $(package))

lock:
	$(UV) $(WITHOUT_TORCH) requirements.txt -o requirements.lock
	$(UV) $(WITHOUT_TORCH) requirements-dev.txt -o requirements-dev.lock
	$(UV) --no-deps requirements-clients.txt -o requirements-clients.lock
	$(UV) requirements-hardware.txt -o requirements-hardware.lock
