# The two commands that a newcomer needs: `make repro` and `make test`.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: repro test real bench soak install clean

repro: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

# Real weights: SmolLM2-135M on the files of data/raw, or on the embedded corpus where there are none. Under an hour.
REAL := presets/smollm2$(if $(wildcard data/raw/sft.jsonl),-files).yaml
real: $(INSTALLED)
	@cmp -s $(REAL) params.yaml || git diff --quiet -- params.yaml || \
		{ echo "params.yaml has changes that $(REAL) would replace: commit or stash them" >&2; exit 1; }
	cp $(REAL) params.yaml
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

# Each stage against its peers, some forty minutes on two cores. RUNS is how often each.
bench: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro pairs
	$(BIN)/python -m bench --runs $${RUNS:-5} --readme README.md

# Kills every stage and dvc itself at random moments, about an hour. MEDQA_SOAK is how often each.
soak: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" MEDQA_SOAK=$${MEDQA_SOAK:-20} $(BIN)/python -m pytest tests/faults

# The real preset's whole pipeline on random weights of its models' shapes: 16 GB of disk, a table last.
.PHONY: rehearsal
rehearsal: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench.rehearsal

# Wheels for a machine with a GPU and no network, which has Python 3.12 and torch; gpu-bundle/run measures there.
.PHONY: gpu-bundle
gpu-bundle: $(INSTALLED)
	$(BIN)/python -m bench.bundle --python $${PYTHON312:-python3.12}

install: $(INSTALLED)

# Versions are exact; gptqmodel builds from source against the torch that is there.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(BIN)/python -m pip install --quiet --disable-pip-version-check torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .medqa
