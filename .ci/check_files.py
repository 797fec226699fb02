# SPDX-License-Identifier: Apache-2.0
"""Refuses files that do not belong into the repository: too large, or text with loose ends.

    python .ci/check_files.py [FILE...]     every tracked file where none is named

Text ends with one newline, has no spaces at the end of a line and no marks of a merge.
"""

import subprocess
import sys
from pathlib import Path

LARGEST = 1_000_000
LARGE = (
    "flashwam/assets/libero_teacher/",
    "flashwam/assets/teacher/",
    "analysis/results/",
    "notebooks/",
    "tests/golden/",
)
"""Folders of files that may be larger: weights, results, executed notebooks, the originals' numbers."""
MARKS = tuple(mark * 7 for mark in "<>")


def faults(path: Path) -> list[str]:
    """A sentence per fault of a file."""
    content = path.read_bytes()
    found = []
    if len(content) > LARGEST and not path.as_posix().startswith(LARGE):
        found.append(f"{path}: {len(content):,} bytes; at most {LARGEST:,} belong into the repository")
    if b"\0" in content or path.suffix in {".json", ".ipynb", ".svg"}:
        return found
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return found
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        found.append(f"{path}: must end with one newline")
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            found.append(f"{path}:{number}: ends with spaces")
        if line.startswith(MARKS):
            found.append(f"{path}:{number}: holds a mark of a merge")
    return found


def main(names: list[str]) -> int:
    """Prints every fault; 1 where there is any."""
    if not names:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
        names = [name for name in listed.split("\0") if name]
    found = [fault for name in names if Path(name).is_file() for fault in faults(Path(name))]
    print("\n".join(found), end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
