#!/usr/bin/env bash
# What `setup.sh --forks [NAME...]` runs: fetch the authors' code, put our patches in, make the environments it needs.
#
#   bash scripts/forks.sh [NAME...]      NAME: a section of patches/series.toml; default all
#
# FORKS_PYTHON=/path/to/python3.11   the interpreter of those environments: 3.10 or 3.11, newer ones have no wheels for them.
# Nothing is written into an environment but its pinned requirements; the authors' code is reached by PYTHONPATH.
set -euo pipefail
cd "$(dirname "$0")/.."
series=patches/series.toml

fail() { echo "forks: $*" >&2; exit 1; }
field() { awk -v name="[$1]" -v key="$2" '/^\[/ { on = ($0 == name) } on && $1 == key { gsub(/"/, "", $3); print $3; exit }' "$series"; }

mapfile -t known < <(sed -n 's/^\[\([a-z0-9_-]*\)\]$/\1/p' "$series")
names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${known[@]}")
submodules=() environments=()
for name in "${names[@]}"; do
  submodule=$(field "$name" submodule)
  [ -n "$submodule" ] || fail "unknown fork '$name'. There are: ${known[*]}"
  submodules+=("third_party/$submodule")
  environments+=("$(field "$name" environment)")
  needs=$(field "$name" needs)
  [ -z "$needs" ] || submodules+=("third_party/$needs")
done

for folder in "${submodules[@]}"; do
  [ -e "$folder/.git" ] || git submodule update --init --depth 1 -- "$folder" ||
    fail "could not fetch $folder (see above). Everything that is not a fork works without it; with a network: git submodule update --init $folder"
done
bash scripts/apply_patches.sh "${names[@]}"

base=${FORKS_PYTHON:-}
for candidate in python3.11 python3.10 python3; do
  [ -z "$base" ] || break
  "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null && base=$candidate
done
for environment in $(printf '%s\n' "${environments[@]}" | sort -u); do
  folder=.venv-forks-$environment requirements=patches/requirements-$environment.txt
  wanted=$(cksum <"$requirements")
  if [ "$(cat "$folder/.made-from" 2>/dev/null || true)" != "$wanted" ]; then
    [ -n "$base" ] || fail "no Python 3.10 or 3.11 on the PATH (transformers $environment needs one). Name it: FORKS_PYTHON=/path/to/python3.11 bash setup.sh --forks"
    [ -x "$folder/bin/python" ] || "$base" -m venv "$folder" || fail "$base -m venv failed (Debian and Ubuntu: install python3-venv)"
    echo "forks: installing $requirements into $folder (once; a few minutes)" >&2
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
      fail "$requirements did not install into $folder (see above)"
    echo "$wanted" >"$folder/.made-from"
  fi
done
echo "forks: ready: ${names[*]}" >&2
