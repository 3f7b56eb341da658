# The only entry points that anyone needs. Each installs what it lacks (tests/prerequisites.sh).
#   make demo [ARGS=--exit]   two clusters become one mesh while you watch
#   make playground [ARGS=…]  real Kubernetes clusters on this machine, with tombolo installed
#   make test lint bench image clean

SHELL := /bin/bash
.DEFAULT_GOAL := help

# What takes long to make is kept outside of the checkout, so that a fresh clone starts warm.
TOMBOLO_CACHE ?= $(HOME)/.cache/tombolo
export TOMBOLO_CACHE
export CARGO_BUILD_BUILD_DIR ?= $(TOMBOLO_CACHE)/build

HOST := x86_64-unknown-linux-gnu
ifeq ($(shell uname -m),aarch64)
HOST := aarch64-unknown-linux-gnu
endif
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Static binaries, so that an image needs no base.
STATIC := RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $(HOST)
BIN := target/$(HOST)/release
PLAYGROUND := target/debug/playground

.PHONY: help demo test test-fast test-privileged test-e2e bench lint image playground clean

help: ## Lists the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

lint: ## Formatting, clippy, licences and advisories, purity and budgets
	@tests/prerequisites.sh lint
	cargo fmt --all --check
	cd ebpf/programs && cargo fmt --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo deny --locked --log-level error check
	tests/budgets.sh

test: test-fast test-privileged test-e2e ## Everything: unit, property, simulation, BPF, real clusters

test-fast: ## Unit, property and golden tests, simulation
	@tests/prerequisites.sh build
	cargo test --locked --workspace

clean: ## Removes what was built, and ends a playground that runs
	@[ ! -x $(PLAYGROUND) ] || $(PLAYGROUND) down
	cargo clean
