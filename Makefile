# `make demo` and `make test` need nothing but this file's machine to be a Debian 12 (root or sudo),
# or an activated conda environment that has DIALS: .ci/setup.sh makes the rest, once.

# The release that is installed where torch is missing. The pin matters: without it pip may take
# a CUDA build of several gigabytes.
TORCH_VERSION ?= 2.13.0

# Where `make demo` writes.
DEMO ?= demo

SHELL := /bin/bash
export TORCH_VERSION
BIN = $(shell .ci/setup.sh --prefix)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 16

setup:  ## the environment: .venv over Debian's DIALS, or the activated conda environment
	@.ci/setup.sh

demo: setup  ## simulate the example sweep, process it with DIALS, compare with the truth
	@PATH="$(BIN):$$PATH" "$(BIN)/python" examples/demo.py "$(DEMO)"

test: setup  ## the whole test suite, two tests at a time (PYTEST_ARGS="..." is passed on)
	@PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: setup  ## ruff: rules and layout
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .

clean:  ## remove .venv, caches and the demo's output
	rm -rf .venv build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis "$(DEMO)"
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
