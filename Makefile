# Everything below sets itself up: a virtual environment in .venv, nothing global.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Of `make reproduce`.
SIZE ?= cpu
CASEHOLD ?= ../shared/casehold
OPINIONS ?= ../shared/caselaw

# Of `make bench`; llama.cpp's side needs its program LLAMA and the model's GGUF files.
TOKENIZER ?= ../shared/qwen2_tokenizer

.PHONY: help setup demo sweep-demo reproduce bench bench-gpu test test-all lint scorer clean

help:           ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

setup: $(READY) ## the environment alone

$(READY): requirements.txt tools/setup.sh
	@tools/setup.sh $(PYTHON)
	@touch $@

demo: $(READY)  ## train, evaluate, export and score without a hub (minutes)
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/demo.sh

sweep-demo: $(READY) ## the papers' tables and figures on the demo, into runs/sweep-demo
	$(BIN)/python tools/sweep.py --model demo --data demo --limit 320 --batch-size 16 --learning-rate 3e-3 --jobs 2 \
		--output runs/sweep-demo $(GRID)

reproduce: $(READY) ## CaseHOLD from text alone: SIZE=cpu (two hours), pretrained (three) or gpu, CASEHOLD=DIR, OPINIONS=DIRS
	$(BIN)/python tools/reproduce.py --size $(SIZE) --casehold $(CASEHOLD) --opinions $(OPINIONS) \
		--output runs/reproduce-$(SIZE) $(FLAGS)

bench: $(READY) scorer ## benchmarks of scoring and training, into runs/bench (two hours): CASEHOLD=DIR, TOKENIZER=DIR, LLAMA=FILE, GGUF=FILES
	$(BIN)/python benchmarks/bench.py --data $(CASEHOLD) --tokenizer $(TOKENIZER) --output runs/bench \
		$(if $(LLAMA),--llama-perplexity $(LLAMA) --gguf $(GGUF))

bench-gpu: $(READY) scorer ## what a GPU changes, into runs/bench-gpu (nine minutes): CASEHOLD=DIR, TOKENIZER=DIR
	$(BIN)/python benchmarks/gpu.py --data $(CASEHOLD) --tokenizer $(TOKENIZER) --output runs/bench-gpu

# Two files at a time, a thread each: two threads each on two cores would take longer than one file at a time.
test: $(READY)  ## the fast suite (under 4 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: test  ## everything, every command of the documents included
	$(BIN)/python -m pip install -q -r tests/requirements.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow -n 2 --dist loadfile

lint: $(READY)  ## ruff, and the layers of lib/
	$(BIN)/ruff check .
	$(BIN)/lint-imports

scorer: $(READY) ## cpp_scorer/score, with what it lacks fetched into .deps/
	@tools/build_scorer.sh

clean:          ## what was built here; runs/ stays
	rm -rf .venv .cache .deps cpp_scorer/build* cpp_scorer/score
