"""`python -m apo.rankers.serve` refuses in one line, and before it loads a model."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from apo.errors import UserError
from apo.rankers.folders import WEIGHTS
from apo.rankers.serve import arguments, check, listen
from tests.rankers.tiny import tiny_adapter


def test_the_command_refuses_its_own_arguments_before_it_loads_anything(base, tmp_path, capsys):
    path, there = ["--path", str(base)], listen("127.0.0.1", 0)
    port = there.getsockname()[1]
    with (
        there,
        pytest.raises(
            UserError, match=f"--host 127.0.0.1 --port {port}: can't listen there .*in use.*give another --port"
        ),
    ):
        listen("127.0.0.1", port)
    for host, wrong in (("127.0.0.1", 99999), ("no such host", 8000)):
        with pytest.raises(UserError, match="can't listen there"):
            listen(host, wrong)
    wide = tiny_adapter(base, tmp_path / "wide", 1)
    weights = load_file(wide / WEIGHTS)
    save_file(
        {name: torch.zeros(2, 7) if "lora_A" in name else value for name, value in weights.items()}, wide / WEIGHTS
    )
    for more, said in (
        (["--path", "nowhere"], "--path=nowhere: no config.json there"),
        ([*path, "--device", "tpu9"], "--device=tpu9: torch has no such device here"),
        ([*path, "--adapter", f"a={tmp_path}"], "--adapter a=.*no adapter_config.json"),
        ([*path, "--adapter", f"a={wide}"], "--adapter a=.* was trained over another model"),
    ):
        with pytest.raises(UserError, match=said):
            check(arguments(more))
    capsys.readouterr()
    for more in (
        ["--dtype", "int3"],
        ["--queue", "0"],
        ["--seconds", "nan"],
        ["--frames", "1.5"],
        ["--adapter", "base=x"],
        ["--port", "http"],
    ):
        with pytest.raises(SystemExit):
            arguments([*path, *more])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"serve: argument {more[0]}: ")
