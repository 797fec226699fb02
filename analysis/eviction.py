# SPDX-License-Identifier: Apache-2.0
"""Drives the shipped miniature with both rules of a full window, in the same scenes and from the same noise.

    python analysis/eviction.py --episodes 50 --seed 0 --out analysis/results

The miniature's window holds one chunk, so the rules part with its second chunk. A rule is a line of ``wam.json``
(`LingBotConfig.eviction`); nothing is trained.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from flashwam.evaluation.local import evaluate
from flashwam.system.files import write_whole
from flashwam.system.paths import ASSETS
from flashwam.system.provenance import provenance
from flashwam.wam.lingbot_va.config import EVICTIONS
from flashwam.wam.wam_file import WAM_FILE

TEACHER = ASSETS / "teacher"


def measured(rule: str, scratch: Path, *, episodes: int, seed: int) -> dict[str, Any]:
    """Outcomes by task of the teacher under a rule."""
    model = shutil.copytree(TEACHER, scratch / rule)
    config = json.loads((model / WAM_FILE).read_text())
    write_whole(model / WAM_FILE, json.dumps(config | {"eviction": rule}))
    (result,) = evaluate(model, nfe=["full"], episodes=episodes, seed=seed, out=scratch / f"{rule}_results")
    return {task: numbers["outcomes"] for task, numbers in result["tasks"].items()}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=50, help="per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = {
            rule: measured(rule, Path(scratch), episodes=arguments.episodes, seed=arguments.seed) for rule in EVICTIONS
        }
    mask, permanent = outcomes["mask"], outcomes["permanent"]
    pairs = [pair for task in mask for pair in zip(mask[task], permanent[task], strict=True)]
    summary = {
        "episodes": len(pairs),
        "success": {rule: sum(map(sum, tasks.values())) for rule, tasks in outcomes.items()},
        "success under one rule alone": {
            "mask": sum(one and not other for one, other in pairs),
            "permanent": sum(other and not one for one, other in pairs),
        },
    }
    content = {**summary, "outcomes": outcomes, "made": provenance()}
    write_whole(arguments.out / "eviction.json", json.dumps(content, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
