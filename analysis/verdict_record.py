# SPDX-License-Identifier: Apache-2.0
"""Counts how often `flashwam analyze` put the better student ahead, in the studies of `analysis/results`.

    python analysis/verdict_record.py

Writes `flashwam/assets/verdict_record.json`, which the pages of `flashwam analyze` quote. The rule was written after
some of these studies were made; those made later are the test of it.
"""

from pathlib import Path

from flashwam.report.record import GROUPS, read_record, tally, write_record

RESULTS = Path(__file__).resolve().parent / "results"
KNOWN = {"miniature LingBot-VA": RESULTS / "full", "miniature CogVideoX": RESULTS / "cogvideox_full"}
SINCE = {"miniature LingBot-VA, later": RESULTS / "one_step"}


def main() -> None:
    """Writes the record and prints the counts."""
    print(write_record(KNOWN, SINCE))
    for model, found in read_record().items():
        for setting in sorted({one["setting"] for one in found["comparisons"]}):
            comparisons = [one for one in found["comparisons"] if one["setting"] == setting]
            for group in GROUPS:
                print(f"{model}, {setting}, {group} tasks: {tally(comparisons, group)}")


if __name__ == "__main__":
    main()
