# SPDX-License-Identifier: Apache-2.0
"""A command imports what it runs, and nothing else."""

import json
import subprocess
import sys

COUNT = """
import contextlib, io, json, sys
import flashwam
if arguments := sys.argv[1:]:
    from flashwam.cli import main
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
print(json.dumps(sorted(sys.modules)))
"""


def imported(*arguments):
    """Every module that a command line imports in a process of its own; that of `import flashwam` without any."""
    done = subprocess.run([sys.executable, "-c", COUNT, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_of_it():
    found = imported()
    assert {name for name in found if name.startswith("flashwam")} == {"flashwam"}
    assert not found & {"torch", "numpy", "transformers", "diffusers", "accelerate"}


def test_help_imports_the_commands_alone():
    found = imported("--help")
    assert "flashwam.commands.distill" in found
    assert not found & {"torch", "numpy", "omegaconf", "transformers", "diffusers", "accelerate"}


def test_a_process_that_collects_demonstrations_imports_no_torch():
    """Each of them would take seconds for it, and a quarter of a gigabyte."""
    code = "import sys, flashwam.sim.collect; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_plan_of_a_consistency_recipe_imports_its_family_and_the_engine_alone():
    found = imported("distill", "flash_wam", "--dry-run")
    assert {"flashwam.wam.lingbot_va", "flashwam.distillation.methods.consistency"} <= found
    others = (
        "flashwam.foresight",
        "flashwam.swiftvla",
        "flashwam.wam.cogvideox",
        "flashwam.evaluation",
        "flashwam.serve",
    )
    assert not [name for name in found if name.startswith(others)]
    # The network's base class brings diffusers and transformers' utilities, not their models.
    assert not [name for name in found if name.startswith(("transformers.models", "diffusers.models.autoencoders"))]
    assert not found & {"transformers.modeling_utils", "peft", "scipy", "deepspeed", "mujoco", "metaworld", "av"}
