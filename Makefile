# The two commands of the README are `make demo` and `make test`. Everything lives in .venv;
# nothing needs root. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCES := .venv-references
PYNQ := .venv-pynq
QUIETLY := $(PYTHON) tools/quietly.py

# What the demo does; override it, e.g. make demo PROMPT="Tell me a joke."
PROMPT ?= It is a truth
PLACE ?= 0-1=opencl,2=cpu,3-5=fpga:rtl?config=sim
TOKENS ?= 40
SAMPLING := --temperature 0.7 --top-k 40 --seed 1
RTL := 0-5=fpga:rtl?config=sim,head=fpga:rtl?config=sim
export PROMPT PLACE TOKENS RTL
# The four-way driver suite, notebooks, and what is about pynq alone.
PYNQ_TESTS := tests/integration/test_transports.py tests/integration/test_notebooks.py tests/pynq
# Passed to pytest, e.g. make test PYTEST="-k softmax"
PYTEST ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-pynq lint bench boards faults formal mutants references env clean

help: ## show this list
	@echo "Ciuic: LLMs on CPU, GPU and FPGA. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo ## a model writes text on OpenCL, CPU and the FPGA's RTL, and checks itself
	@$(BIN)/ciuic run --prompt "$$PROMPT" --max-tokens "$$TOKENS" $(SAMPLING) --place "$$PLACE" --check
	@echo; echo "The same with every linear layer and all attention of every token on the RTL:"
	@$(BIN)/ciuic run --prompt "$$PROMPT" --max-tokens 8 $(SAMPLING) --place "$$RTL" --check

test: $(VENV)/.dev lint ## every check and test, the hardware benches and test-pynq included
	@$(BIN)/ciuic fetch
	@$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not mutants and not pynq" --durations=10 $(PYTEST)
ifeq ($(PYTEST),)
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; \
		then $(MAKE) --no-print-directory test-pynq; \
		else echo "make test-pynq needs Python 3.12 at most: grpcio 1.64, which pynq asks for, has no later wheel"; fi
endif

test-pynq: $(PYNQ)/.ready ## the driver on the real pynq package, over simulated boards and PYNQ.remote
	@$(PYNQ)/bin/python -m pytest -n $(WORKERS) -m "not slow" --durations=10 $(PYNQ_TESTS) $(PYTEST)

lint: $(VENV)/.dev ## format, lint, types, import contracts, file sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/file_sizes.py

bench: $(VENV)/.demo ## speed of the simulated overlay
	@$(BIN)/ciuic bench sim

faults: $(VENV)/.dev ## a thousand runs with devices that fail at random points; two minutes
	@$(BIN)/python -m pytest -s -m slow tests/faults

formal: $(VENV)/.dev ## the bounded proofs alone (`make test` runs them too)
	@$(BIN)/python -m pytest tests/formal --durations=0

mutants: $(VENV)/.dev ## break one line of the gateware at a time; a bench must notice; half an hour
	@$(BIN)/python -m pytest -n $(WORKERS) tests/mutants --durations=5

boards: $(VENV)/.dev ## build every board with open tools; half an hour, writes bitstreams/
	$(BIN)/ciuic build --board pynq-z2 --publish bitstreams
	$(BIN)/ciuic build --board kv260 --publish bitstreams
	$(BIN)/ciuic build --board ecp5-85f --publish bitstreams

# torch is hundreds of MB, so this has its own environment.
references: $(VENV)/.dev $(REFERENCES)/.ready ## record again what transformers computes, for the tests; writes tests/data
	$(REFERENCES)/bin/python tools/reference_models.py
	$(REFERENCES)/bin/python tools/reference_logits.py "$$($(BIN)/ciuic fetch)" tests/data

env: $(VENV)/.dev ## the environment for development, in .venv
	@echo "ready: $(BIN)/ciuic, $(BIN)/pytest"

clean: ## remove the environment and everything built here
	rm -rf $(VENV) $(REFERENCES) $(PYNQ) build dist sim_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find ciuic host hw sim tests tools -name __pycache__ -prune -exec rm -rf {} +

# One environment; a stamp says which extras are in it, and is stale when pyproject.toml changes.
$(VENV)/.demo: EXTRAS := model,cli,opencl-cpu,sim
$(VENV)/.dev: EXTRAS := dev,opencl-cpu
$(VENV)/.demo $(VENV)/.dev: pyproject.toml | $(VENV)/.created
	@$(QUIETLY) "installing packages into $(VENV) (a few minutes, once)" \
		$(BIN)/python -m pip install --disable-pip-version-check -e ".[$(EXTRAS)]"
	@touch $@

$(REFERENCES)/.ready: pyproject.toml
	@$(PYTHON) -m venv $(REFERENCES)
	@$(QUIETLY) "installing torch and transformers into $(REFERENCES) (a few minutes, once)" \
		$(REFERENCES)/bin/python -m pip install --disable-pip-version-check -e ".[references]"
	@touch $@

# pynq pins older packages than the others take.
$(PYNQ)/.ready: pyproject.toml
	@$(PYTHON) -m venv $(PYNQ)
	@$(QUIETLY) "installing pynq into $(PYNQ) (a few minutes, once)" \
		$(PYNQ)/bin/python -m pip install --disable-pip-version-check -e ".[test-pynq]"
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit(f"python must be 3.10 or newer, not {v.major}.{v.minor}; name another one: make PYTHON=python3.12")'
	@$(QUIETLY) "creating $(VENV)" $(PYTHON) -m venv $(VENV)
	@touch $@
