# `make demo` and `make test` are all that a newcomer needs; both prepare .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUILD := setup.py pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
WORKERS ?= 2
SOURCES := $(wildcard csrc/*.h csrc/*.cpp csrc/*.cu tests/kernels/*.c)

.PHONY: demo test test-all test-gpu sanitize lint format bench clean

demo: $(STAMP)
	$(BIN)/ctm-fast demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# Every kernel once under the checkers of the CUDA toolkit; no caching, so that they see overruns.
sanitize: $(STAMP)
	for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(BIN)/python -m pytest -m gpu tests/kernels/test_all_ops.py \
	    -k "test_values or test_gradients" || exit 1; \
	done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks kernels

clean:
	rm -rf $(VENV) build dist *.egg-info ctm_fast/_native*.so

$(STAMP): $(BUILD)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,report]"
	$(BIN)/python -m pip install -c constraints.txt --no-deps timm  # would bring torchvision
	@$(BIN)/python -c "from ctm_fast.kernels import _native as n; \
	  print('native part:', '; '.join(n.parts()) or n.ABSENT)"
	@touch $(STAMP)
