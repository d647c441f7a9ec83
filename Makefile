# The two commands that a newcomer needs: `make repro` and `make test`.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(name)),$(name))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Besides: what tests, benchmarks and several processes need.
ALL_INSTALLED := $(VENV)/.installed-all

# DVC needs a home and a name, which the user of a container may lack.
export HOME := $(or $(value HOME),$(CURDIR)/.medqa/home)
export USER := $(or $(value USER),$(value LOGNAME),$(shell id -un 2>/dev/null),user)

.PHONY: repro test test-all real bench soak install clean

# Each path is relative or $$PWD: the shell expands that once, whatever characters the folder's name has. dvc is started
# as a module, since the first line of an installed script holds the path too. The check says first what DVC says badly,
# what the run costs, and refuses one that cannot fit.
DVC := PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m dvc
CHECK := PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m medqa check
# In an unpacked archive DVC has to be told so; without git it has no experiments.
WITHOUT_GIT := [ -e .git ] || git rev-parse --git-dir > /dev/null 2>&1 || $(DVC) config --local core.no_scm true

# What a run leaves for git, and the way back.
AFTER := if git rev-parse --git-dir > /dev/null 2>&1; then \
	echo "git status shows dvc.lock and metrics/: what this run measured on this machine, to commit or not."; \
	echo "git checkout dvc.lock metrics goes back to the committed run (after make real: also params.yaml)."; fi

repro: $(INSTALLED)
	@$(WITHOUT_GIT)
	@$(CHECK)
	$(DVC) repro
	@$(AFTER)

# One thread per worker: two workers on two cores are faster than two threads in one.
TESTS := PATH="$$PWD/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
test: $(ALL_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS) -m "not slow"

# Also whole pipelines, kills, real servers, several processes, benchmarks and a browser; under forty minutes.
test-all: $(ALL_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS)

# Real weights: SmolLM2-135M on the files of data/raw, or on the embedded corpus where there are none. Under an hour.
REAL := smollm2$(if $(wildcard data/raw/sft.jsonl),-files)
real: $(INSTALLED)
	$(BIN)/python -m medqa preset $(REAL)
	@$(WITHOUT_GIT)
	@$(CHECK)
	$(DVC) repro
	@$(AFTER)

# Each stage against its peers, some forty minutes on two cores. RUNS is how often each.
bench: $(ALL_INSTALLED)
	$(DVC) repro pairs
	$(BIN)/python -m bench --runs $${RUNS:-5} --page docs/performance.md

# Kills every stage and dvc itself at random moments, about an hour. MEDQA_SOAK is how often each.
soak: $(ALL_INSTALLED)
	PATH="$$PWD/$(BIN):$$PATH" MEDQA_SOAK=$${MEDQA_SOAK:-20} $(BIN)/python -m pytest tests/faults tests/test_distributed.py

# The real preset's whole pipeline on random weights of its models' shapes: 16 GB of disk, a table last.
.PHONY: rehearsal
rehearsal: $(ALL_INSTALLED)
	PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m bench.rehearsal

# Wheels for a machine with a GPU and no network, which has Python 3.12 and torch; gpu-bundle/run measures there.
.PHONY: gpu-bundle
gpu-bundle: $(ALL_INSTALLED)
	$(BIN)/python -m bench.bundle --python "$${PYTHON312:-python3.12}"

install: $(ALL_INSTALLED)

# Versions are exact; gptqmodel builds from source against the torch that is there.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing the packages of constraints.txt into $(VENV): 1.7 GB with torch for processors, minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(ALL_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .medqa
