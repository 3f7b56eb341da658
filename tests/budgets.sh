#!/usr/bin/env bash
# Checks what no compiler checks: purity of the cores, where unsafe may stand, the size of files, the opening line.
set -euo pipefail
cd "$(dirname "$0")/.."
failures=0
fail() { printf 'budget: %s\n' "$*" >&2; failures=$((failures + 1)); }

# Cores take time and seeds as arguments and touch no socket: these crates must not even be reachable.
impure='^(tokio|quinn|rustls|kube|aya|nix|libc-net|mio|socket2|rtnetlink|hyper) '
# boringtun reads its own clock by nix: what it brings along is its own, what anything else brings is not.
for crate in tombolo-model tombolo-abi tombolo-datapath tombolo-node-core tombolo-mesh-core tombolo-tunnel-core; do
  clock=()
  [[ $crate != tombolo-tunnel-core ]] || clock=(--prune boringtun)
  tree=$(cargo tree --locked -q -p "$crate" -e normal --prefix none "${clock[@]}")
  found=$(grep -E "$impure" <<<"$tree" | sort -u || true)
  [[ -z $found ]] || fail "$crate must stay pure, but depends on: ${found//$'\n'/, }"
done
clocks=$(find node/model/src node/core/src ebpf/abi/src ebpf/datapath/src clustermesh/core/src tunnel/core/src \
  -name '*.rs' ! -name 'tests.rs' ! -path '*/tests/*' -exec awk \
  'FNR == 1 { test = 0 } /^#\[cfg\(test\)\]/ { test = 1 }
   !test && /Instant::now|SystemTime::now|std::env::var|std::net::(Tcp|Udp)/ { print FILENAME ":" FNR ": " $0 }' {} +)
[[ -z $clocks ]] || fail "a core reads a clock, the environment or a socket:"$'\n'"$clocks"

for manifest in $(git ls-files '*Cargo.toml' | grep -v '^Cargo.toml$'); do
  [[ $manifest == */libfuzzer/* || $manifest == ebpf/programs/* ]] && continue
  grep -qA1 '^\[lints\]' "$manifest" && grep -q '^workspace = true' "$manifest" ||
    fail "$manifest does not opt in to the workspace lints"
done

unsafe=$(git ls-files '*.rs' | grep -vE '^ebpf/|(^|/)(sys|syscall)(/|\.rs$)' | xargs -r grep -lE '\bunsafe +(\{|fn|impl)' || true)
[[ -z $unsafe ]] || fail "unsafe stands outside of ebpf/ and the syscall modules (sys.rs): $unsafe"

while read -r file; do
  lines=$(wc -l <"$file")
  ((lines <= 600)) || grep -q '^//! .*[Oo]ne idea' "$file" || fail "$file has $lines lines; the limit is 600"
  [[ $file == */tests.rs || $file == */tests/* ]] || head -n 1 "$file" | grep -q '^//!' || head -n 12 "$file" | grep -q '^//!' || fail "$file does not open with //!"
done < <(git ls-files '*.rs')

# Generated state of one machine has no place in the tree.
if git grep -nE '(^|[^a-z/.])/work/(main|shared|wt|cache)' -- ':!tests/budgets.sh' >&2; then
  fail "a path of one machine is named"
fi

((failures == 0)) || exit 1
echo "budgets: purity, unsafe, sizes and openings are as they should be"
