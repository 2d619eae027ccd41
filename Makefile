# Every check has one home here; .ci/run calls `make check`.
PYTHON ?= python3
PYTEST_ARGS ?= -n 2

VENV := .venv
BIN := $(VENV)/bin
# -qq: errors only. The pins keep a result and the versions it was measured with together.
INSTALL := -m pip install -qq -c constraints.txt
MODEL := s-resnet20-digits
# The clients of the hub that the tests pass with: the last of version 1 and the newest of version 2.
HUB_CLIENTS := 1.33.0 2.4.0

# What was imported once is kept compiled: `import torch` takes 2.3 s without and 1.1 s with it, and tests
# start some hundred processes. pip would compile all 11,383 files, which takes it 18 of 56 s.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run test emulate lint docs wheel smoke cards hub-clients check clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## install into .venv and measure the shipped model: accuracy by number of timesteps
	$(BIN)/zoo eval $(MODEL) --timesteps 1,2,4,8,16,32

test: $(VENV)/.dev  ## every test; in two processes; PYTEST_ARGS="-k layout" for some of them
	$(BIN)/python -m pytest $(PYTEST_ARGS)

emulate: $(VENV)/.dev  ## every test of kernels on PTX emulated for sm_80 and sm_90, with three models of copies
	for copies in poisoned late early; do \
		SPIKING_ZOO_COPIES=$$copies $(BIN)/python -m pytest $(PYTEST_ARGS) -m emulate tests/kernels || exit 1; \
	done

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.dev  ## build the pages into site/: links checked, notebooks shown, the gallery beside them
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/zoo site --out site/gallery

wheel: $(VENV)/.dev  ## build dist/*.whl, of less than 30 MB
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist
	test $$(cat dist/*.whl | wc -c) -lt 30000000

smoke: wheel  ## install the wheel in a clean environment outside the checkout and use it there
	@set -e; \
	there=$$(mktemp -d); trap 'rm -rf "$$there"' EXIT; \
	$(PYTHON) -m venv "$$there/venv"; \
	"$$there/venv/bin/python" $(INSTALL) --no-compile dist/*.whl; \
	cd "$$there"; PATH="$$there/venv/bin:$$PATH"; set -x; \
	zoo --version; \
	zoo list; \
	zoo pull s-resnet20; \
	zoo show s-resnet20; \
	zoo eval $(MODEL) --timesteps 8; \
	python -m zoo verify $(MODEL) --deep; \
	zoo site --out gallery

cards: $(VENV)/.run  ## write the index of the shipped models, and model_cards/ from their evaluations
	$(BIN)/python -m zoo.models.registry
	for folder in zoo/models/*/; do name=$$(basename $$folder); $(BIN)/zoo card $$name --output model_cards/$$name.md; done

# The tests use two processors; the others one each, so two of them run side by side.
check: $(VENV)/.dev  ## smoke, lint, docs and test: what CI runs
	$(MAKE) --jobs 2 smoke lint docs
	$(MAKE) test

hub-clients: $(VENV)/.dev  ## the hub tests with each client of the hub in HUB_CLIENTS, each in a folder of its own
	@set -e; there=$$(mktemp -d); trap 'rm -rf "$$there"' EXIT; \
	for version in $(HUB_CLIENTS); do \
		$(BIN)/python -m pip install -qq --target "$$there/$$version" huggingface-hub==$$version; \
		export PYTHONPATH="$$there/$$version"; \
		$(BIN)/python -c 'import huggingface_hub as hub; print("huggingface-hub", hub.__version__, hub.__file__)'; \
		$(BIN)/python -m pytest tests/zoo/hub -q; \
	done

clean:  ## remove .venv, dist and every cache
	rm -rf $(VENV) build dist site .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find zoo kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says which set is installed, so a second make is quick. The install is editable: sources need no new one.
$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --no-compile -e ".[data,plots,docs,dev]"
	touch $(VENV)/.run $@
