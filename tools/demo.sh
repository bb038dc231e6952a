#!/bin/sh
# The whole way without a network: a tiny base model, preference training with 4 negatives, evaluation before and after,
# export, and the same test questions again in C++.
# usage: tools/demo.sh   (in the project's folder, python of .venv first in PATH; `make demo` does that)
set -eu
started=$(date +%s)
step() { printf '\n== %s\n' "$1"; }

step "untuned model on the demo's test questions"
python eval_mc.py --split test --model demo --data demo
step "training with 4 negatives"
rm -rf runs/demo
# A model of half a million weights takes larger steps than one of half a billion.
python train_sdpo.py --num-neg 4 --model demo --data demo --output runs/demo \
    --learning-rate 3e-3 --batch-size 16 --epochs 2
step "tuned model on the same questions"
python eval_mc.py --split test --model runs/demo --data demo --output runs/demo/predictions.jsonl
step "export to ONNX"
python export.py --model runs/demo --output runs/demo/model.onnx
step "the scorer, built and run: no Python from here on"
tools/build_scorer.sh
questions=$(python -c 'from lib.demo.data import ensure_data; print(ensure_data())')/test.jsonl
./cpp_scorer/score --model runs/demo/model.onnx --input "$questions" --output runs/demo/predictions.cpp.jsonl
printf '\ndone in %d seconds\n' $(($(date +%s) - started))
