# The front door: `make help` lists all targets. Everything sets itself up on first use.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRAINING = $(READY)-training
CLUSTERING = $(READY)-cluster
PARQUETING = $(READY)-parquet
MLFLOWING = $(READY)-mlflow

MODEL ?=
ENGINE ?=
DATASET ?=
VOCAB ?=
IMAGENET_DIR ?=
SCENARIO ?= Offline
SAMPLES ?=
DURATION ?=
OFFICIAL ?=
FORCE ?=
SYSTEM ?=
DIVISION ?= open
SUBMITTER ?=
SYSTEM_TYPE ?=
MODELS ?=
SCENARIOS ?=
REHEARSAL ?=
INFER ?=
SET ?=
PYTHON ?=
DEEPSPARSE ?= 1
BENCH ?= offline
WEIGHTS ?=
TRAIN ?=
CLUSTER ?=
PARQUET ?=
MLFLOW ?=
PROFILE ?=
CLUSTER_SAMPLES ?=
A ?=
B ?=
RUNS ?=
ROUND ?=
INFERENCE_REPO ?=
FILE ?=
ARGS ?=
# `make run` must not let the default replace the scenario of a file.
CHOSEN_SCENARIO := $(if $(filter command environment,$(origin SCENARIO)),1)
TYPED_SCENARIO := $(filter command,$(origin SCENARIO))

export IMAGENET_DIR

# Values reach the commands as typed: `$` and `$$` both give a `$`, and quotes and spaces are kept.
GIVEN = MODEL ENGINE DATASET VOCAB IMAGENET_DIR SCENARIO SAMPLES DURATION OFFICIAL FORCE SYSTEM DIVISION SUBMITTER SYSTEM_TYPE \
  MODELS SCENARIOS REHEARSAL SET PYTHON DEEPSPARSE BENCH A B RUNS ROUND INFER INFERENCE_REPO WEIGHTS TRAIN CLUSTER CLUSTER_SAMPLES FILE \
  PARQUET MLFLOW PROFILE
$(foreach name,$(GIVEN),$(eval override $(name) := $$(subst $$$$$$$$,$$$$,$$(value $(name)))))

empty :=
space := $(empty) $(empty)
quoted = '$(subst ','\'',$(1))'
option = $(if $(strip $($(1))),--$(2) $(call quoted,$($(1))))
flag = $(if $(filter-out 0 no false,$(strip $($(1)))),--$(2))
# Lists are split at spaces, except at `\ `. In SET a pair begins at a word NAME=..., so that values may contain spaces.
escaped = $(subst \$(space),␣,$($(1)))
unescaped = $(call quoted,$(subst ␣,$(space),$(1)))
list = $(foreach each,$(call escaped,$(1)),$(if $(2),--$(2)) $(call unescaped,$(each)))
begins = $(if $(findstring =,$(1)),$(if $(findstring /,$(firstword $(subst =, ,$(1)))),,pair))
pairs = $(subst $(space)␣,␣,$(foreach each,$(subst $(space)$(space),␣$(space),$(call escaped,SET)),$(if $(call begins,$(each)),,␣)$(each)))
SETTINGS = $(if $(strip $(VOCAB)),--set $(call quoted,vocab=$(VOCAB))) $(foreach pair,$(pairs),--set $(call unescaped,$(pair)))

# `make setup CLUSTER=1` only adds Ray; CLUSTER=0 means no cluster.
WITH_CLUSTER = $(filter-out 0 no false,$(strip $(CLUSTER)))
WITH_RAY = $(filter-out threads:%,$(WITH_CLUSTER))
NODES = $(if $(filter 1 yes true,$(WITH_CLUSTER)),$(error CLUSTER=$(CLUSTER) only adds Ray, in `make setup`: give a hosts file or local:2),$(if $(WITH_CLUSTER),$(call option,CLUSTER,cluster) $(call option,CLUSTER_SAMPLES,cluster-samples)))

OPTIONS = $(call option,MODEL,model) $(call option,ENGINE,engine) $(call option,DATASET,dataset) \
  $(call option,SAMPLES,samples) $(call option,DURATION,duration) $(call option,SYSTEM,system) \
  $(call flag,OFFICIAL,official) $(call flag,FORCE,force) $(call flag,PROFILE,profile) $(NODES) $(SETTINGS)

CAMPAIGN = $(if $(strip $(MODELS)),$(call list,MODELS,model),$(call option,MODEL,model)) \
  $(call list,SCENARIOS,scenario) $(call option,ENGINE,engine) \
  $(call option,DATASET,dataset) $(call option,SYSTEM,system) $(call option,SYSTEM_TYPE,system-type) \
  $(call option,DURATION,duration) $(call flag,REHEARSAL,rehearsal) $(call flag,INFER,infer) $(NODES) $(SETTINGS)

.PHONY: help setup train run run-offline run-server run-singlestream run-multistream run-accuracy tune report compare submission compliance system package check journey doctor data models options test test-unit coverage lint format wheel bench recovery-table published-table lock clean distclean

help: ## This list
	@echo 'MLPerf Inference for CPUs. Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo 'Variables of the run targets (make run-offline MODEL=... ENGINE=...):'
	@echo '  MODEL      name (make models) or path of an ONNX file    default: the embedded model'
	@echo '  ENGINE     deepsparse, onnxruntime, openvino or null     default: the tuned one, else the fastest for the model'
	@echo '  DATASET    name or path of a data set                    default: the full set if available, else a sample'
	@echo '  VOCAB      vocab.txt, tokenizer.json or a checkpoint     default: BERT uncased'
	@echo '  IMAGENET_DIR  the ImageNet 2012 validation set, for ResNet50: 50,000 images, flat or in class folders'
	@echo '  FILE       for run: a TOML file with the options of a run; its lists become a sweep (harness help runfile)'
	@echo '  SCENARIO   for run, run-accuracy and tune: Offline, Server, SingleStream or MultiStream'
	@echo '  SAMPLES    use only about the first N samples            development runs only'
	@echo '  DURATION   minimum duration in seconds                   not for official runs; default 20, or what early stopping needs'
	@echo '  SET        options, such as SET="threads=2 vocab=my vocab.txt" (make options); a pair begins at NAME='
	@echo '  OFFICIAL   1 applies the rules: 10 minutes, the full data set, into results/'
	@echo '  FORCE      1 replaces an existing official result, or tuned settings of another model'
	@echo '  PROFILE    1 shows the time of each operator after a performance run (onnxruntime, openvino)'
	@echo '  SYSTEM     name under results/, measurements/, systems/  default: from the processor; package: all with results'
	@echo '  CLUSTER    a hosts file, whose machines are one system, or local:2 for two nodes on this machine (docs/cluster.md)'
	@echo '  CLUSTER_SAMPLES  indices: nodes hold the data set, and get only sample numbers   default: data'
	@echo '  ARGS       further options of the command, such as ARGS=-v, passed unchanged'
	@echo '  BENCH      for bench, the measurement: engines, offline, scenarios, bert_data, image_data, recording, cluster or cluster_model'
	@echo '  A          for compare: a run of build/runs, its folder or its name; repeats separated by commas'
	@echo '  B          for compare: the run or repeats to compare with A'
	@echo '  RUNS       for report: names in build/runs, or folders of results/  default: the newest run (ARGS="--last 4")'
	@echo
	@echo 'Variables of submission, compliance, package and check:'
	@echo '  DIVISION   open or closed                                default: open'
	@echo '  SUBMITTER  your organisation, for package'
	@echo '  SYSTEM_TYPE  edge, datacenter or datacenter,edge         default: that of systems/SYSTEM.json, or edge'
	@echo '  MODELS     names or paths, optionally with @ENGINE; "\ " is a space in a path       default: MODEL'
	@echo '  SCENARIOS  of the campaign or package                    default: those that the closed division requires; package: all'
	@echo '  REHEARSAL  1 is a dry run with stand-ins, in build/rehearsal and build/rehearsal-submission'
	@echo '  ROUND      such as v6.1                                  default: that of the logs'
	@echo '  INFER      1: submission leaves out results that the rules let you infer, and package adds them (submission.md, 5 and 6)'
	@echo '  INFERENCE_REPO  a checkout of mlcommons/inference, whose two checkers then also run'
	@echo '  OFFICIAL   for check: 1 clones the pinned commit of mlcommons/inference, and runs its two checkers'
	@echo
	@echo 'Variables of setup:'
	@echo '  PYTHON     the Python to use                             default: 3.11, else 3.12 or 3.13'
	@echo '  DEEPSPARSE 0 leaves DeepSparse out (its licence allows evaluation use only)'
	@echo '  TRAIN      1 adds PyTorch, which only `make train` needs'
	@echo '  CLUSTER    1 adds Ray, which only runs on several machines need'
	@echo '  PARQUET    1 adds pyarrow, which only reports in Parquet need'
	@echo '  MLFLOW     1 adds MLflow, which only `harness export mlflow` needs'
	@echo
	@echo 'Variables of train:'
	@echo '  MODEL      a recipe: a name (harness models train --list) or a TOML file'
	@echo '  WEIGHTS    a checkpoint in safetensors, or an FP32 model: an ONNX file or a name'
	@echo '  TRAIN      the data: a file in the format of SQuAD v1.1, or a folder of images'
	@echo '  ENGINE     the engine whose 8-bit operators the file gets; further options in ARGS, such as --output'

# Any TRAIN adds PyTorch, even the path of the data in `make train TRAIN=...`.
setup: $(READY) $(if $(filter-out 0 no false,$(strip $(TRAIN))),$(TRAINING)) $(if $(WITH_RAY),$(CLUSTERING)) $(if $(filter-out 0 no false,$(strip $(PARQUET))),$(PARQUETING)) $(if $(filter-out 0 no false,$(strip $(MLFLOW))),$(MLFLOWING)) ## Make .venv with pinned packages; the other targets do this automatically

run-offline: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## Performance of the Offline scenario: samples per second
	@$(BIN)/harness run --scenario Offline --mode performance $(OPTIONS) $(ARGS)

run-server: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## Performance of the Server scenario: samples per second within the latency bound
	@$(BIN)/harness run --scenario Server --mode performance $(OPTIONS) $(ARGS)

run-singlestream: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## Performance of the SingleStream scenario: 90th percentile latency of a sample
	@$(BIN)/harness run --scenario SingleStream --mode performance $(OPTIONS) $(ARGS)

run-multistream: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## Performance of the MultiStream scenario: 99th percentile latency of 8 samples
	@$(BIN)/harness run --scenario MultiStream --mode performance $(OPTIONS) $(ARGS)

run-accuracy: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## Accuracy: F1 or top-1 of the answers that LoadGen logged
	@$(BIN)/harness run --scenario $(call quoted,$(SCENARIO)) --mode accuracy $(OPTIONS) $(ARGS)

run: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## All tests of the run file FILE (harness help runfile); other variables override the file
	@$(BIN)/harness run $(if $(strip $(FILE)),$(call quoted,$(FILE))) $(if $(CHOSEN_SCENARIO),$(call option,SCENARIO,scenario)) $(OPTIONS) $(ARGS)

tune: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## Find the best engine and settings for SCENARIO on this machine, and for Server the highest VALID target_qps
	@$(BIN)/harness tune --scenario $(call quoted,$(SCENARIO)) $(OPTIONS) $(ARGS)

train: $(TRAINING) ## Prune and quantise MODEL by training from WEIGHTS on TRAIN; continues where it stopped (docs/training.md)
	@$(BIN)/harness models train $(call quoted,$(MODEL)) $(call option,WEIGHTS,weights) $(call option,TRAIN,data) \
	  $(call option,ENGINE,for) $(SETTINGS) $(ARGS)

compare: $(READY) ## Show the differences between runs A and B, and whether one is faster beyond the noise (A=... B=...)
	@$(BIN)/harness compare $(call quoted,$(A)) $(call quoted,$(B)) $(ARGS)

report: $(READY) ## Show RUNS, or the newest run, in build/report.html: verdict, latencies, batches, core use (ARGS="--format md")
	@$(BIN)/harness report $(call list,RUNS) $(ARGS)

system: $(READY) ## Describe this machine in systems/SYSTEM.json, and list what a person must add (ARGS="--submitter ...")
	@$(BIN)/harness system init $(call option,SYSTEM,system) $(if $(NODES),$(call option,CLUSTER,cluster)) $(ARGS)

submission package: $(if $(TYPED_SCENARIO),only-scenarios)

.PHONY: only-scenarios
only-scenarios:
	@echo 'error: write SCENARIOS= instead of SCENARIO=: a submission has several scenarios.' >&2; exit 2

submission: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## All official runs that a submission needs; continues where it stopped (REHEARSAL=1: a dry run)
	@$(BIN)/harness campaign --division $(call quoted,$(DIVISION)) $(CAMPAIGN) $(ARGS)

compliance: $(READY) $(if $(WITH_RAY),$(CLUSTERING)) ## The compliance tests of existing official results: TEST01, and TEST04 for ResNet50
	@$(BIN)/harness compliance run $(CAMPAIGN) $(ARGS)

package: $(READY) ## Make build/submission and its tarball from the official runs, for DIVISION and SUBMITTER (SYSTEM, MODELS and SCENARIOS select them)
	@$(BIN)/harness package --division $(call quoted,$(DIVISION)) --submitter $(call quoted,$(SUBMITTER)) \
	  $(call list,SYSTEM,system) $(call list,SCENARIOS,scenario) $(if $(strip $(MODELS)),$(call list,MODELS,model),$(call option,MODEL,model)) \
	  $(call option,ROUND,round) \
	  $(call flag,REHEARSAL,rehearsal) $(call flag,INFER,infer) $(ARGS)

data: $(READY) ## Fetch the full SQuAD v1.1 dev set and BERT's vocabulary into build/data
	@$(BIN)/harness data fetch

models: $(READY) ## List the models known by name (harness models --help: show, fetch, verify and build them)
	@$(BIN)/harness models

options: $(READY) ## List the options of SET
	@$(BIN)/harness options

check: $(READY) ## Check build/submission (REHEARSAL=1: the rehearsal's); with INFERENCE_REPO or OFFICIAL=1 also the official checkers
	@$(BIN)/harness check $(call flag,REHEARSAL,rehearsal) $(call option,ROUND,round) $(call option,INFERENCE_REPO,inference-repo) \
	  $(call flag,OFFICIAL,official) $(ARGS)

journey: ## Rehearse everything from a clone to the tarball, in build/journey, and time each step (with INFERENCE_REPO: official checkers)
	@PYTHON=$(call quoted,$(PYTHON)) DEEPSPARSE=$(call quoted,$(DEEPSPARSE)) INFERENCE_REPO=$(call quoted,$(INFERENCE_REPO)) \
	  tools/journey.sh $(ARGS)

doctor: ## Find what would block or slow a run: each line good, warning or bad, with the fix (also OFFICIAL=1)
	@$(MAKE) --no-print-directory -s $(READY) || true
	@sh tools/doctor.sh $(call quoted,$(VENV)) $(call quoted,$(PYTHON)) $(call flag,OFFICIAL,official) $(ARGS)

test: $(READY) ## Run all tests, two files at a time; failing ones are run once more, alone
ifneq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(BIN)/python -m pytest --cache-clear -n 2 --dist loadfile || \
		{ [ $$? -eq 1 ] && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }
endif

test-unit: $(READY) ## Run the quick unit tests, in less than two minutes on 2 cores
	@$(BIN)/python -m pytest -m "unit and not slow" $(ARGS)

coverage: $(READY) ## Run all tests, and show which lines of code/ they reach (pages in build/coverage)
	@$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html $(ARGS)

lint: $(READY) ## Check style, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && sh tools/types.sh $(call quoted,$(VENV))

format: $(READY) ## Fix style and format
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

wheel: $(READY) ## Build build/dist/mlperf_cpu_harness-VERSION-py3-none-any.whl, to install with pip without a checkout
	@sh tools/wheel.sh $(call quoted,$(VENV)) build/dist

bench: $(READY) ## Run the measurement BENCH, such as offline: the harness next to raw engines and the reference implementation
	@$(BIN)/python -m $(call quoted,benchmarks.$(BENCH)) $(ARGS)

recovery-table: $(READY) ## Compress a dense model (MODEL, DATASET), and show how much accuracy remains and how much speed is gained
	@$(BIN)/python -m benchmarks.recovery $(call option,MODEL,model) $(call option,DATASET,dataset) $(ARGS)

published-table: $(READY) ## Run the six published models in LoadGen's Offline scenario, with random weights where not fetched
	@$(BIN)/python -m benchmarks.published $(call option,DATASET,dataset) $(ARGS)

$(READY): pyproject.toml requirements.lock requirements-deepsparse.lock tools/setup.sh
	@sh tools/setup.sh $(call quoted,$(VENV)) $(call quoted,$(PYTHON)) $(call quoted,$(DEEPSPARSE)) $(call quoted,$@) $(foreach each,$^,$(call quoted,$(each)))

$(TRAINING): $(READY) requirements-train.lock tools/setup-more.sh
	@sh tools/setup-more.sh $(call quoted,$(VENV)) $(call quoted,$@) requirements-train.lock PyTorch 'minutes, 1 GB or more'

$(CLUSTERING): $(READY) requirements-cluster.lock tools/setup-more.sh
	@sh tools/setup-more.sh $(call quoted,$(VENV)) $(call quoted,$@) requirements-cluster.lock Ray '240 MB' --no-deps --require-hashes

$(PARQUETING): $(READY) requirements-parquet.lock tools/setup-more.sh
	@sh tools/setup-more.sh $(call quoted,$(VENV)) $(call quoted,$@) requirements-parquet.lock pyarrow '160 MB' --no-deps --require-hashes

$(MLFLOWING): $(READY) requirements-mlflow.lock tools/setup-more.sh
	@sh tools/setup-more.sh $(call quoted,$(VENV)) $(call quoted,$@) requirements-mlflow.lock MLflow '60 MB' --no-deps --require-hashes

lock: $(READY) ## Resolve the pinned packages again (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra deepsparse --python-version 3.11 --python-platform linux --generate-hashes \
	  --no-emit-index-url --no-header -q -c requirements.lock -o requirements-deepsparse.lock
	uv pip compile pyproject.toml --extra cluster --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -c requirements.lock -o build/cluster.lock
	$(BIN)/python tools/only_new.py build/cluster.lock requirements.lock requirements-cluster.lock
	uv pip compile pyproject.toml --extra parquet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -c requirements.lock -o build/parquet.lock
	$(BIN)/python tools/only_new.py build/parquet.lock requirements.lock requirements-parquet.lock
	uv pip compile pyproject.toml --extra mlflow --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -c requirements.lock -o build/mlflow.lock
	$(BIN)/python tools/only_new.py build/mlflow.lock requirements.lock requirements-mlflow.lock

clean: ## Remove run records and caches; keep data, results and .venv
	rm -rf build/runs build/cache build/coverage .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find code tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv and fetched data
	rm -rf $(VENV) $(VENV).lock build
