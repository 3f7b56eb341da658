#!/usr/bin/env bash
# Makes sure that what a make target needs is there: installs it on Debian and Ubuntu, and names it elsewhere.
# usage: tests/prerequisites.sh (build|lint|cluster|kube-proxy|fuzz|bench)...
set -euo pipefail

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

wanted=()  # Debian packages
reasons=() # what each is for

# need PACKAGE WHY TEST...: remembers PACKAGE when the command TEST fails
need() {
  local package=$1 why=$2
  shift 2
  "$@" >/dev/null 2>&1 && return
  wanted+=("$package")
  reasons+=("$package ($why)")
}
has() { command -v "$1"; }

install_packages() {
  ((${#wanted[@]})) || return 0
  if ! has apt-get >/dev/null; then
    die "missing: ${reasons[*]}. This is no Debian or Ubuntu: install what provides them and run make again."
  fi
  local run=()
  if ((EUID != 0)); then
    has sudo >/dev/null || die "missing: ${reasons[*]}. Run 'apt-get install ${wanted[*]}' as root."
    run=(sudo -n)
  fi
  say "installing ${reasons[*]}"
  "${run[@]}" apt-get update -qq
  "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
  wanted=() reasons=()
}

rust_src() { # a rustup toolchain with the rust-src component, or Debian's rustc-web with its sources
  local sysroot
  sysroot=$(rustc --print sysroot 2>/dev/null) && [[ -d $sysroot/lib/rustlib/src/rust/library/core ]] && return
  [[ -d /usr/lib/rustlib/src/rust/library/core || -d /usr/lib/rustlib/src/library/core ]] && /usr/bin/rustc --version
}

build() {
  has cargo >/dev/null || die "cargo is missing: install Rust 1.95 or later (https://rustup.rs), then run make again."
  need gcc "links host binaries" has cc
  need libc6-dev "static linking" test -e /usr/include/stdio.h
  need protobuf-compiler "compiles the messages of the raft library" has protoc
  need make "builds" has make
  if ! rust_src >/dev/null 2>&1; then
    need rustc-web "compiles the BPF programs" test -x /usr/bin/rustc
    need rust-web-src "core library for the BPF target" test -d /usr/lib/rustlib/src
  fi
  if ! has bpf-linker >/dev/null; then
    need llvm-22-dev "links the BPF programs" test -d /usr/lib/llvm-22/include
    need libpolly-22-dev "part of LLVM's libraries" test -e /usr/lib/llvm-22/lib/libPolly.a
    need zlib1g-dev "bpf-linker" test -e /usr/include/zlib.h
    need libzstd-dev "bpf-linker" test -e /usr/include/zstd.h
    need g++ "bpf-linker" has g++
  fi
  install_packages
  if ! has bpf-linker >/dev/null; then
    say "building bpf-linker (links the BPF programs; once, about two minutes)"
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install -q bpf-linker --version 0.13.0 --locked --no-default-features --features llvm-22
  fi
}

lint() {
  build
  if ! cargo deny --version >/dev/null 2>&1; then
    say "building cargo-deny (checks licences and advisories of dependencies; once, about two minutes)"
    cargo install -q cargo-deny --locked
  fi
}

cluster() {
  build
  has go >/dev/null || die "go is missing: install Go 1.26 or later (https://go.dev/dl), which builds Kubernetes for the playground."
  need iproute2 "network namespaces and links" has ip
  need procps "kills processes in tests and the demo" has pkill
  need nftables "cuts links of the playground" has nft
  need util-linux "enters namespaces" has nsenter
  need tcpdump "captures what travels between clusters" has tcpdump
  need wireguard-tools "shows the tunnels" has wg
  install_packages
}

kube-proxy() {
  cluster
  need iptables "rules of kube-proxy, where it does not use nftables" has iptables
  install_packages
}

fuzz() {
  build
  need g++ "compiles libFuzzer" has g++
  install_packages
  cargo +nightly --version >/dev/null 2>&1 ||
    die "a nightly Rust toolchain is missing: run 'rustup toolchain install nightly', then make again."
  if ! has cargo-fuzz >/dev/null; then
    say "building cargo-fuzz (drives libFuzzer; once, about a minute)"
    cargo install -q cargo-fuzz --locked
  fi
}

bench() {
  cluster
  need iperf3 "measures throughput" has iperf3
  install_packages
}

(($#)) || die "usage: $0 (build|lint|cluster|kube-proxy|fuzz|bench)..."
for what in "$@"; do
  case $what in
    build | lint | cluster | kube-proxy | fuzz | bench) "$what" ;;
    *) die "unknown prerequisite '$what'" ;;
  esac
done
