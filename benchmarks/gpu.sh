#!/usr/bin/env bash
# Measures one NVIDIA GPU in eight minutes: needs Python with torch, no network, nothing installed.
#
#   benchmarks/gpu.sh bundle [--python 3.12 --cuda 13.0]   where there is a network: packs what the
#                                                          machine lacks into gpu-bundle.tar.xz
#   benchmarks/gpu.sh [--out gpu.json]                     on the machine, beside the archive
#   benchmarks/gpu.sh --dry-run                            tiny shapes, on a CPU too
#
# docs/measuring-a-gpu.md tells more. PYTHON names another interpreter than python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

if [ "${1:-}" = bundle ]; then
    shift
    exec "$python" "$root/benchmarks/gpu/bundle.py" "$@"
fi

path=$root
if [ -e "$root/gpu-bundle.tar.xz" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" - "$root/gpu-bundle.tar.xz" "$site" <<'PY'
import sys
import tarfile

with tarfile.open(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2], filter="data")
PY
    # Before the machine's own packages, which may be of other versions.
    path=$root:$site/site
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
"$python" -m eto_gym.benchmarks.gpu "$@"
