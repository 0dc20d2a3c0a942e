"""Runs commands one after another in this process: `python -m tests.refusals '[["train.py", "max_steps=-1"], ...]'`.

Prints, for each, what it ended with and the slow libraries that were imported by then, as a line of JSON.
"""

import json
import runpy
import sys

SLOW = {"diffusers", "lightning", "peft", "torch", "torchmetrics", "transformers", "wandb"}


def ended(command: list[str]) -> str | int | None:
    sys.argv = command
    try:
        if command[0].endswith(".py"):
            runpy.run_path(command[0], run_name="__main__")
        else:
            sys.modules.pop(command[0], None)  # an earlier command may have imported it: runpy warns
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        return stopped.code


if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        print(json.dumps([ended(command), sorted(SLOW & {name.split(".")[0] for name in sys.modules})]))
