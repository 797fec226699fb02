# SPDX-License-Identifier: Apache-2.0
"""Prints what a command costs before it does anything: seconds, imported modules, and the heavy packages among them.

python benchmarks/startup.py
"""

import json
import subprocess
import sys
import tempfile

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "scipy", "omegaconf", "matplotlib")
COMMANDS = (
    "",
    "--help",
    "collect teacher --dry-run",
    "distill flash_wam --dry-run",
    "distill videovla/metaworld/flash_wam --dry-run",
    "plan flash_wam",
    "analyze flash_wam --out {folder}",
    "info --json -",
)
"""Command lines; the first stands for `import flashwam`."""

CODE = """
import contextlib, io, json, sys, time
begun = time.perf_counter()
import flashwam
if arguments := sys.argv[1:]:
    from flashwam.cli import main
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
print(json.dumps({"seconds": time.perf_counter() - begun, "modules": sorted(sys.modules)}))
"""


def measured(arguments: list[str]) -> tuple[float, list[str]]:
    """Seconds that a command takes in a process of its own, without the interpreter's start, and what it imports."""
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], told["modules"]


def main() -> None:
    """A line for each command; the second of two runs, since the first reads the files from disk."""
    print(f"{'command':<50} {'seconds':>8} {'modules':>8} {'flashwam':>9}  heavy packages")
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            arguments = command.format(folder=folder).split()
            measured(arguments)
            seconds, modules = measured(arguments)
            own = sum(name.partition(".")[0] == "flashwam" for name in modules)
            heavy = ", ".join(name for name in HEAVY if name in modules)
            shown = f"flashwam {command}" if command else "import flashwam"
            print(f"{shown:<50} {seconds:>8.2f} {len(modules):>8,} {own:>9}  {heavy or 'none'}")


if __name__ == "__main__":
    main()
