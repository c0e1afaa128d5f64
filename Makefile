# The commands of this repository. They write to this folder, and to ~/.cache/model-factory what was measured of
# this processor; Python lives in .venv.
#
#   make quickstart   install, then build recipes/quickstart.yaml and say where its report is
#   make test         install with the development tools, then run every test
#   make lowmem       add bitsandbytes, the extra of packed bases and 8-bit Adam
#   make test-lowmem  the same, and their tests
#   make test-slurm   a build as a job of two nodes: as root, with Debian's Slurm, which it unpacks into .slurm
#   make test-compat  logits of published shapes in transformers 5 and 4.56, in .compat, an environment of its own
#   make style        style and types
#   make check        style, types and the fast tests: what to run before a commit
#   make explore      property tests with new examples
#   make gpu-check    ten minutes of one GPU: what has not run on one, with figures and verdicts
#   make bench-grpo   whole GRPO steps: TRL's trainer against ours
#   make bench-evaluate  whole evaluations: lm-eval's hf backend against ours
#   make bench-sft    fine-tuning: TRL's trainer against ours
#   make bench-traces  trace tokens a second: plain vLLM and transformers against ours
#   make bench-offline  the offline suite of benchmarks on the embedded model
#   make install      install only; does nothing while pyproject.toml and its kin are unchanged
#   make constraints  write constraints.txt again from what .venv holds now
#   make clean        remove .venv and caches; artifacts/ stays

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEVELOPMENT := .venv/installed-development
FAST_TESTS := $(wildcard tests/unit tests/golden tests/property tests/test_architecture.py)
# Tests are single-threaded; files of tests share what is costly to build. In the order of their
# names: xdist would put files of few tests last, and the longest of all is one of those.
TWO_AT_ONCE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install development quickstart test lowmem test-lowmem test-slurm test-compat style check explore gpu-check bench-grpo bench-sft bench-traces bench-evaluate bench-offline constraints clean

help:
	@sed -n '/^#   /s/^#   //p' Makefile

install: $(INSTALLED)
development: $(DEVELOPMENT)

quickstart: $(INSTALLED)
	$(BIN)/factory build recipes/quickstart.yaml
	@echo "the whole chain, about three times as long: $(BIN)/factory build recipes/r1-small.yaml"

test: $(DEVELOPMENT)
	$(BIN)/python -m pytest $(TWO_AT_ONCE)

lowmem: $(DEVELOPMENT)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt bitsandbytes

test-lowmem: lowmem
	$(BIN)/python -m pytest tests/pipeline/test_low_memory.py

# Skipped, with the reason, where no Slurm can be fetched or one is not root.
test-slurm: $(DEVELOPMENT)
	-timeout 120 bash tests/slurm/fetch.sh .slurm
	$(BIN)/python -m pytest -rs tests/pipeline/test_slurm.py

# Its own transformers, hub client and tokenizers; torch and the rest are those of .venv, found after them.
.compat/installed: Makefile
	rm -rf .compat
	$(PYTHON) -m venv .compat
	.compat/bin/python -m pip install --quiet --no-deps transformers==4.56.2 "huggingface-hub<1" "tokenizers<0.23"
	$(BIN)/python -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("site-packages")))' \
		> $$(.compat/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	touch $@

test-compat: $(DEVELOPMENT) .compat/installed
	rm -rf .compat/folders
	mkdir -p .compat/folders
	$(BIN)/python bench/transformers4.py .compat/folders
	.compat/bin/python bench/transformers4.py .compat/folders

style: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

check: style
	$(BIN)/python -m pytest $(TWO_AT_ONCE) $(FAST_TESTS)

explore: $(DEVELOPMENT)
	$(BIN)/python -m pytest $(TWO_AT_ONCE) -m hypothesis --hypothesis-profile explore

gpu-check: $(DEVELOPMENT)
	$(BIN)/python tests/gpu/ten_minutes.py $(GPU_CHECK)

bench-grpo: $(INSTALLED)
	$(BIN)/python bench/grpo_step.py

bench-evaluate: $(INSTALLED)
	$(BIN)/python bench/evaluate.py

bench-sft: $(INSTALLED)
	$(BIN)/python bench/sft.py

bench-traces: $(INSTALLED)
	$(BIN)/python bench/traces.py

bench-offline: $(INSTALLED)
	$(BIN)/factory eval embedded --suite offline

constraints: $(DEVELOPMENT)
	$(BIN)/python -m factory.install --refresh-constraints

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build model_factory.egg-info

# The stamps are written last, so an interrupted install starts again and an unchanged one is free.
$(INSTALLED): pyproject.toml constraints.txt factory/install.py | $(BIN)/python
	$(BIN)/python -m factory.install
	@touch $@

$(DEVELOPMENT): $(INSTALLED)
	$(BIN)/python -m factory.install --development
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is missing or older than 3.11 ($$($(PYTHON) --version 2>&1));" \
	         "install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11 ..." >&2; \
	    exit 1; }
	@# Without Debian's python3-venv this stops half-way, says so, and leaves a Python without pip.
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
