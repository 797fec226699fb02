# SPDX-License-Identifier: Apache-2.0
"""The scripts of `analysis/` import each other as they do when one is run."""

import sys
from pathlib import Path

ANALYSIS = Path(__file__).resolve().parents[2] / "analysis"

sys.path.insert(0, str(ANALYSIS))
