#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A few minutes of GPU: tests, rollout of both families, training step, serving stages and pairs, each within its own time.
#
#   benchmarks/gpu_check.sh            on the GPU; writes analysis/results/gpu/<card>_<date>.json and .md
#   benchmarks/gpu_check.sh --tiny     all of it at tiny sizes on the CPU; writes below runs/
#
# Nothing is installed and nothing is fetched. PYTHON names the interpreter (else .venv's, else python3), and
# FLASHWAM_PACKAGES a folder of wheels or of installed packages that is looked at first. Where OUT is set, the files
# are written there too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
if ! command -v "$python" >/dev/null; then
    python=$(command -v python3) || { echo "error: no python3 here; set PYTHON=/path/to/python3"; exit 2; }
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" benchmarks/gpu_check.py "$@"
