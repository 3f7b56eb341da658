# The only entry points that anyone needs. Each installs what it lacks (tests/prerequisites.sh).
#   make demo [ARGS=--exit]   two clusters become one mesh while you watch
#   make playground [ARGS=…]  real Kubernetes clusters on this machine, with tombolo installed
#   make test lint bench fuzz image clean; make test-long for what takes longer

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
PRODUCT := $(addprefix -p tombolo-,node cni tunnel clustermesh cli)
PLAYGROUND := target/debug/playground
# One selection of crates everywhere, so that nothing is compiled twice.
DEV := cargo build --locked --workspace
# Knows every test, what it needs and how long it takes; ARGS are parts of names.
RUNNER := $(DEV) -q --bin runner && target/debug/runner
TEST = export KUBEBUILDER_ASSETS=$(CURDIR)/target/assets; $(RUNNER) run
# The command line, with the clusters of the playground as contexts and its helm.
TOMBOLO := PATH=$(CURDIR)/target/playground/bin:$$PATH KUBECONFIG=target/playground/east.kubeconfig:target/playground/west.kubeconfig $(BIN)/tombolo

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(or $(ARGS),classify cni frame membership offload replication token tunnel)

# The release whose daemon is upgraded in tests.
PREVIOUS := $(shell sed -n 's/^commit //p' tests/release)

.PHONY: help demo test test-fast test-privileged test-e2e test-long bench bench-clusters lint fuzz assets image image-other-layout image-previous playground clean

help: ## Lists the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

lint: ## Formatting, tests that nothing would run, clippy, licences and advisories, purity and budgets
	@tests/prerequisites.sh lint
	cargo fmt --all --check
	cd ebpf/programs && cargo fmt --check
	$(RUNNER) check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo deny --locked --log-level error check bans licenses sources
	tests/advisories.sh
	tests/budgets.sh

test: assets image-other-layout ## Unit, property, simulation, BPF in the kernel, real clusters; ends a playground that runs; ARGS choose by name; needs root
	$(TEST) $(ARGS)

test-fast: ## Of these, what needs nothing, not even root
	@tests/prerequisites.sh build
	$(TEST) --only fast $(ARGS)

test-privileged: assets ## Of these, what needs root: BPF programs in the kernel, links, tunnels, a real API server
	$(TEST) --only root $(ARGS)

test-e2e: assets image-other-layout ## Of these, what needs clusters with the product
	$(TEST) --only clusters $(ARGS)

test-long: assets image-other-layout image-previous ## What takes longer: all stories of five clusters, soaks, the long simulation
	@tests/prerequisites.sh kube-proxy
	$(TEST) --long $(ARGS)

# What benchmarks need, since a test of the tunnel runs iperf3, too.
assets: ## The programs of Kubernetes that tests start
	@tests/prerequisites.sh bench
	$(DEV) -q --bins
	@mkdir -p target/assets
	$(PLAYGROUND) build --helm --kube-proxy | while read -r name path; do ln -sf "$$path" "target/assets/$$name"; done

fuzz: ## Searches for bytes that break a parser or get a packet a wrong verdict, FUZZ_SECONDS=60 for each; ARGS names the targets
	@tests/prerequisites.sh fuzz
	@mkdir -p $(addprefix target/fuzz/,$(FUZZ_TARGETS))
	for target in $(FUZZ_TARGETS); do \
	  cargo +nightly fuzz run --fuzz-dir tests/fuzz/libfuzzer --target-dir $(TOMBOLO_CACHE)/fuzz $$target \
	    target/fuzz/$$target tests/fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done

image: ## Static binaries in OCI images, under target/images
	@tests/prerequisites.sh build
	$(STATIC) $(PRODUCT)
	$(DEV) -q --bin playground
	@mkdir -p target/images
	$(PLAYGROUND) image --name tombolo.io/node --tag $(VERSION) --entrypoint /usr/bin/tombolo-node \
	  $(foreach b,tombolo-node tombolo-cni tombolo-tunnel,--file $(BIN)/$(b)=/usr/bin/$(b)) \
	  --link /var/run=/run -o target/images/node.tar
	$(PLAYGROUND) image --name tombolo.io/clustermesh --tag $(VERSION) --entrypoint /usr/bin/tombolo-clustermesh \
	  --file $(BIN)/tombolo-clustermesh=/usr/bin/tombolo-clustermesh --link /var/run=/run -o target/images/clustermesh.tar

# Another version of what runs in a cluster, by which tests upgrade it: the same sources, with another layout of every map.
image-other-layout: image ## The same with another layout of BPF maps, for the test of an upgrade, under target/images/other-layout
	$(STATIC) --target-dir target/other-layout $(PRODUCT) --features tombolo-node/other-layout
	@mkdir -p target/images/other-layout
	$(PLAYGROUND) image --name tombolo.io/node --tag other-layout --entrypoint /usr/bin/tombolo-node \
	  $(foreach b,tombolo-node tombolo-cni tombolo-tunnel,--file target/other-layout/$(HOST)/release/$(b)=/usr/bin/$(b)) \
	  --link /var/run=/run -o target/images/other-layout/node.tar
	$(PLAYGROUND) image --name tombolo.io/clustermesh --tag other-layout --entrypoint /usr/bin/tombolo-clustermesh \
	  --file target/other-layout/$(HOST)/release/tombolo-clustermesh=/usr/bin/tombolo-clustermesh --link /var/run=/run \
	  -o target/images/other-layout/clustermesh.tar

# A build directory of its own: cargo would take the older sources for the newer ones. The image is kept by its commit.
image-previous: ## The daemon of the last release, for the test of its upgrade
	@tests/prerequisites.sh build
	@$(DEV) -q --bin playground
	@[ -f $(TOMBOLO_CACHE)/previous/$(PREVIOUS)/clustermesh.tar ] || git cat-file -e $(PREVIOUS) 2>/dev/null || { \
	  echo "error: commit $(PREVIOUS) of tests/release is not in this clone; run 'git fetch --unshallow'" >&2; exit 1; }
	[ -f $(TOMBOLO_CACHE)/previous/$(PREVIOUS)/clustermesh.tar ] || { \
	  rm -rf target/previous && mkdir -p target/previous $(TOMBOLO_CACHE)/previous/$(PREVIOUS) && \
	  git archive $(PREVIOUS) | tar -xm -C target/previous && \
	  (cd target/previous && CARGO_BUILD_BUILD_DIR=$(TOMBOLO_CACHE)/previous/build $(STATIC) -p tombolo-clustermesh) && \
	  $(PLAYGROUND) image --name tombolo.io/clustermesh --tag previous --entrypoint /usr/bin/tombolo-clustermesh \
	    --file target/previous/$(BIN)/tombolo-clustermesh=/usr/bin/tombolo-clustermesh --link /var/run=/run \
	    -o $(TOMBOLO_CACHE)/previous/$(PREVIOUS)/clustermesh.tar; }
	@mkdir -p target/images/previous && ln -sf $(TOMBOLO_CACHE)/previous/$(PREVIOUS)/clustermesh.tar target/images/previous/

playground: image ## Two clusters with tombolo installed; ARGS are those of `playground up`
	@tests/prerequisites.sh $(if $(findstring iptables,$(ARGS)),kube-proxy,cluster)
	$(PLAYGROUND) up --cni tombolo $(ARGS)

# What measures nothing needs no clusters.
bench: $(if $(filter --list --compare --help,$(ARGS)),,bench-clusters) ## Us and a peer side by side in one run; ARGS are those of `bench` (ARGS=--list)
	@tests/prerequisites.sh build
	cargo run --locked --release -q -p tombolo-bench -- $(ARGS)

bench-clusters: image
	@tests/prerequisites.sh bench
	$(PLAYGROUND) up --cni tombolo
	$(TOMBOLO) mesh status --context west | grep -q '^east ' || \
	  $(TOMBOLO) connect --context east --destination-context west

demo: image ## Two clusters become one mesh while you watch; ARGS=--exit for machines
	@tests/prerequisites.sh cluster
	$(DEV) -q --bin demo
	target/debug/demo $(ARGS)

clean: ## Removes what was built, and ends a playground that runs
	@[ ! -x $(PLAYGROUND) ] || $(PLAYGROUND) down
	cargo clean
