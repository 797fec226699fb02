# SPDX-License-Identifier: Apache-2.0
"""The scripts of `benchmarks/` import each other as they do when one is run."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.append(str(BENCHMARKS))
