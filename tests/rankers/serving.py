"""A tiny Qwen3-VL that answers with labels, and real server processes on loopback that serve it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import torch

from apo.rankers.vlm import RankingVLM, TrainableVLM
from apo.world.build.vlm import build_vlm

ROOT = Path(__file__).parents[2]
START_S = 60


def labelling_vlm(folder: Path) -> Path:
    """Random weights, but the four labels are always the likeliest tokens, and which of them depends on the videos."""
    build_vlm(folder, vision={"depth": 2, "deepstack_visual_indexes": [1]}, text={"num_hidden_layers": 2})
    vlm = RankingVLM(str(folder), "float32", frames=4, fps=8)
    model, draw = vlm.model, torch.Generator().manual_seed(3)
    videos = torch.randint(0, 256, (2, 8, 4, 3, 64, 64), dtype=torch.uint8, generator=draw)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "v_proj.weight")):
                weight *= 2  # the answer shall depend on what is attended to, the videos
        head = model.lm_head.weight.clone()
        model.lm_head.weight = torch.nn.Parameter(torch.eye(128))  # shows the hidden state
        states = vlm(*videos, ["digit", "scene"] * 4).mean(0)
        head[vlm.answers] = 8 * states / states.square().sum() + 0.15 * torch.randn(4, 128, generator=draw)
        model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.save_pretrained(folder)
    return folder


def random_adapter(base: Path, folder: Path) -> Path:
    lora = {"rank": 2, "alpha": 2, "targets": ["q_proj", "v_proj"]}
    vlm = TrainableVLM(str(base), "float32", 4, 8.0, lora, None, seed=0, gradient_checkpointing=False)
    for name, weight in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
    vlm.save_adapter(folder)
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ServerProcess:
    """`python -m <command> --port <port>`, and its output in a file."""

    def __init__(self, command: list[str], ready: str, log: Path):
        self.port, self.ready, self.log = free_port(), ready, log
        self.command = [sys.executable, "-m", *command, "--port", str(self.port)]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.process = None

    def start(self) -> "ServerProcess":
        settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=settings, cwd=ROOT)
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}{self.ready}").is_success:
                    return self
            except httpx.TransportError:
                time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"{self.command} did not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def apo_server(base: Path, adapters: dict[str, Path], log: Path) -> ServerProcess:
    named = [f"{name}={folder}" for name, folder in adapters.items()]
    return ServerProcess(
        ["apo.rankers.serve", "--path", str(base), "--dtype", "float32", "--adapter", *named], "/v1/models", log
    )


def transformers_server(base: Path, log: Path) -> ServerProcess:
    command = [
        "tests.rankers.transformers_serve",
        "serve",
        str(base),
        "--host",
        "127.0.0.1",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    return ServerProcess(command, "/health", log)
