# Whatever you type first sets up .venv by itself. ARGS passes settings on: make reproduce ARGS="run.seed=1"
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup vllm-env reproduce quick r1 test dashboard mlflow bench bench-dashboard gpu-check lint base dev
unexport PYTHONDONTWRITEBYTECODE
ARGS ?=
bin := .venv/bin

help:
	@echo "make reproduce   everything from nothing: base, R1-Zero, table, figures (15 minutes on 2 cores)"
	@echo "make quick       R1-Zero on the released base (5 minutes)"
	@echo "make r1          all of R1 on the released base: four stages and a distilled student"
	@echo "make dashboard   look at runs in the browser;  make mlflow  the same in MLflow;  make bench-dashboard  its speed"
	@echo "make test        all tests and checks;  make lint  the checks;  make bench  speed against others"
	@echo "make gpu-check   on a machine with an H100 or H200: BF16 against FP8, a GRPO step, decoding; writes a JSON"
	@echo "make setup       only the environment (GPU=1 adds Transformer Engine, AGENTS=1 smolagents and LangGraph);  make vllm-env  vLLM's own, for rollouts"
	@echo "$(bin)/r1 --help  every command"

setup: base
	@$(if $(GPU),scripts/setup.sh gpu)
	@$(if $(AGENTS),scripts/setup.sh agents)

vllm-env:
	@scripts/setup.sh vllm

reproduce quick:
	@start=$$(date +%s); scripts/setup.sh base && export R1_SETUP_SECONDS=$$(($$(date +%s) - start)) && \
	exec $(bin)/r1 reproduce run.dir=runs/$@ $(if $(filter quick,$@),stage=quick reproduce.base=experiments/base) $(ARGS)

r1: base
	@exec $(bin)/r1 r1 run.dir=runs/r1 $(ARGS)

test: lint
	@OMP_NUM_THREADS=1 $(bin)/python -m pytest -q -n 2 --dist loadfile --durations=15 $(ARGS)

lint: dev
	@said=$$($(bin)/lint-imports --no-logo 2>&1) || { echo "$$said"; exit 1; }
	@$(bin)/ruff check -q . && $(bin)/ruff format -q --check .

dashboard: base
	@exec $(bin)/python -m dashboard --port $(or $(PORT),8501) $(ARGS)

mlflow: base
	@mkdir -p runs; echo "MLflow: http://127.0.0.1:$(or $(PORT),5000)  (Ctrl-C ends it)"
	@exec $(bin)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port $(or $(PORT),5000) $(ARGS)

bench: dev
	@$(bin)/python -m experiments.bench $(ARGS)

bench-dashboard: dev
	@$(bin)/python -m dashboard.bench $(ARGS)

# Takes the Python that is there: nothing is installed on a borrowed machine.
gpu-check:
	@$(or $(PYTHON),$(wildcard $(bin)/python),python3) -W ignore scripts/gpu_check.py $(ARGS)

base dev:
	@scripts/setup.sh $@
