#!/usr/bin/env bash
# Put our inserted lines into the authors' code in third_party/, or take them out again.
#
#   bash scripts/apply_patches.sh [--check | --reverse] [NAME...]      NAME: a section of patches/series.toml; default all
#
# --check only tells what would happen, and which other files of a submodule were changed. A patch without context lands on line numbers, whatever stands there, so every
# file's blob id is compared first: a file that is neither the one the patch was made for nor its result is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD series=patches/series.toml

mode=apply names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --check) mode=check ;;
    --reverse) mode=reverse ;;
    -h | --help) sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    -*) sed -n '4p' "$0" | sed 's/^# *//' >&2; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(sed -n 's/^\[\([a-z0-9_-]*\)\]$/\1/p' "$series")

say() { printf '%-12s %s\n' "$1" "$2"; }

# field NAME KEY: the string KEY of section [NAME] of series.toml
field() { awk -v name="[$1]" -v key="$2" '/^\[/ { on = ($0 == name) } on && $1 == key { gsub(/"/, "", $3); print $3; exit }' "$series"; }

# files PATCH: one "PATH BEFORE AFTER" per file, from the patch's own header lines
files() { awk '/^index / { split($2, id, /\.\./) } /^\+\+\+ b\// { print substr($0, 7), id[1], id[2] }' "$1"; }

# state FOLDER PATCH: before | after | a sentence that says which file is neither
state() {
  local path before after now found="" known
  while read -r path before after; do
    [ -f "$1/$path" ] || { echo "$1/$path does not exist"; return; }
    now=$(git hash-object --no-filters "$1/$path")
    case "$now" in
      "$before") known=before ;;
      "$after") known=after ;;
      *) echo "$1/$path is not the pinned file (blob ${now:0:12}, expected ${before:0:12})"; return ;;
    esac
    [ -z "$found" ] || [ "$found" = "$known" ] || { echo "$1 is half patched"; return; }
    found=$known
  done < <(files "$2")
  echo "$found"
}

# drift FOLDER PATCH: tracked files that differ from the checked-out commit and that the patch does not name
drift() { git -C "$1" diff --name-only HEAD | grep -vxF -f <(files "$2" | cut -d' ' -f1) | xargs || true; }

# Where another section's patch serves, that one is meant.
for i in "${!names[@]}"; do
  served=$(field "${names[i]}" patch)
  names[i]=${served:-${names[i]}}
done
mapfile -t names < <(printf '%s\n' "${names[@]}" | awk '!seen[$0]++')

status=0
for name in "${names[@]}"; do
  patch="patches/$name.patch" submodule=$(field "$name" submodule)
  if [ -z "$submodule" ] || [ ! -f "$patch" ]; then
    say "$name" "unknown: $series knows $(sed -n 's/^\[\([a-z0-9_-]*\)\]$/\1/p' "$series" | xargs)" >&2
    status=1
    continue
  fi
  folder="third_party/$submodule"
  if [ ! -e "$folder/.git" ]; then
    say "$name" "missing: $folder is empty. Fetch it: git submodule update --init $folder" >&2
    status=1
    continue
  fi
  found=$(state "$folder" "$patch")
  if [ "$mode" = check ]; then
    drifted=$(drift "$folder" "$patch")
    if [ -n "$drifted" ]; then
      say "$name" "changed: $drifted in $folder, which no patch of ours touches. Restore the pin: git submodule update --init --force $folder" >&2
      status=1
    fi
  fi
  case "$mode:$found" in
    apply:after | check:after) say "$name" "patched already" ;;
    reverse:before) say "$name" "not patched" ;;
    check:before) say "$name" "would apply" ;;
    apply:before | reverse:after)
      flags=(--unidiff-zero) wanted=after done="patched"
      [ "$mode" = apply ] || { flags+=(--reverse); wanted=before done="restored"; }
      if git -C "$folder" apply "${flags[@]}" "$root/$patch" && [ "$(state "$folder" "$patch")" = "$wanted" ]; then
        say "$name" "$done"
      else
        say "$name" "failed: $patch did not give the blobs it names. Restore with: git -C $folder checkout -- ." >&2
        status=1
      fi
      ;;
    *)
      say "$name" "refused: $found. Restore the pin: git submodule update --init --force $folder" >&2
      status=1
      ;;
  esac
done
exit "$status"
