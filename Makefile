# What a person runs here. `make help` lists it. Needs Python 3.10 to 3.13 with pip and venv, and make.

PYTHON ?= python3
VENV ?= .venv
FAULT ?= expert-bias
LINGER ?= 600
WORKERS ?= 2
# 1: also install the libraries of requirements/trainers.txt (1.5 GB) and run the tests that need them.
TRAINERS ?= 0
# Where CPU builds of torch are looked for; plain PyPI wheels for Linux bring gigabytes of CUDA. If it cannot be
# reached, what pip finds by itself is taken. `make TORCH_INDEX= ...` leaves it out.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_TRAINERS := $(if $(filter 1,$(TRAINERS)),$(VENV)/.installed-trainers)
TORCHTITAN := torchtitan==0.3.0
# Two gloo processes or two test workers that each spin on every core take ten times as long.
QUIET_THREADS := OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1
SOURCES := agent monitor tests benchmarks

.PHONY: help demo test lint format generate clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'
	@echo
	@echo '  FAULT=none|expert-bias|router-dtype|lora-explosion|compile-resume picks what `make demo` trains'
	@echo '  PYTHON=python3.12 picks the interpreter, VENV=folder where its environment lies'

demo: $(INSTALLED) ## train a small model with a real fault in it, and see it found
	@$(BIN)/trainvitals demo --fault $(FAULT) --linger $(LINGER)

test: lint $(INSTALLED_TRAINERS) ## everything that CI runs (it sets TRAINERS=1)
	$(QUIET_THREADS) $(if $(INSTALLED_TRAINERS),REQUIRE_TRAINERS=1) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED) ## format, style, types, layers, generated files: the quick half of `make test`
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python -m trainvitals_monitor.generate --check

format: $(INSTALLED) ## let ruff format the code and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(INSTALLED) ## write the generated files again
	$(BIN)/python -m trainvitals_monitor.generate

clean: ## remove the environment, caches and what the demo left here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

# Made again when what is pinned or declared has changed, and reused otherwise.
$(INSTALLED): requirements/dev.txt requirements/torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.10 to 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; a minute or two) ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@index="$(TORCH_INDEX)"; \
	if [ -n "$$index" ] && ! $(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/torch/", timeout=5)' "$$index" 2>/dev/null; then \
		echo "$$index cannot be reached; taking torch from where pip looks by itself" >&2; index=; \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt -r requirements/torch.txt $${index:+--extra-index-url "$$index"}
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-trainers: $(INSTALLED) requirements/trainers.txt
	@echo "Installing trainers into $(VENV) (once; some minutes) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt -r requirements/torch.txt -r requirements/trainers.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCHTITAN)
	@touch $@
