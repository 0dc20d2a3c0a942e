"""Serves a ranker by the very code that trains it and that ranks in process, with the OpenAI protocol:

    python -m apo.rankers.serve --path /models/qwen3-vl-8b --adapter human=runs/human/adapter scene=runs/scene/adapter

For `ranker=served`, where vLLM or SGLang is not at hand: a chat of texts and videos in, one token out, with the
probabilities of its alternatives. Videos are taken as they are, every frame at its own time. The base is called
`base`, an adapter by the name given here; all share one copy of the base. What a question may cost is limited
(`--help`, docs/serving.md). Needs the `serve` extra (fastapi, uvicorn).
"""

import argparse
import math
import socket
from dataclasses import fields

import apo.quiet  # noqa: F401  isort: skip
import torch
import uvicorn

from apo.errors import UserError, one_line
from apo.policies.model import DTYPES
from apo.rankers.answer import FRAMES
from apo.rankers.folders import check_adapter, check_device, check_model
from apo.rankers.question import Limits
from apo.rankers.server import BASE, Answerer, Service, build_app


def name_and_folder(pair: str) -> tuple[str, str]:
    name, _, folder = pair.partition("=")
    if not folder or not name or name == BASE:
        raise argparse.ArgumentTypeError(f"{pair!r}: write NAME=FOLDER, with a name other than {BASE}")
    return name, folder


def above_zero(kind: type):
    """An argument's type: a finite number above 0."""

    def number(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    number.__name__ = f"{'whole ' if kind is int else ''}number above 0"  # what argparse says was wanted
    return number


class OneLine(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"serve: {message}; --help lists the options\n")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = OneLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, help="model folder or hub id")
    parser.add_argument(
        "--adapter", nargs="*", type=name_and_folder, default=[], metavar="NAME=FOLDER", help="LoRA adapters"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines; there is no password"
    )
    parser.add_argument("--port", type=int, default=8000)
    limits = parser.add_argument_group("limits")
    for limit in fields(Limits):
        flag, kind = f"--{limit.name.replace('_', '-')}", above_zero(limit.type)
        limits.add_argument(flag, type=kind, default=limit.default, help=f"{limit.metadata['help']} (%(default)s)")
    return parser.parse_args(given)


def listen(host: str, port: int) -> socket.socket:
    """Taken before the model is loaded; UserError if it can't be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: can't listen there ({error}); give another --port, or a --host of here"
        ) from None


def check(a: argparse.Namespace) -> None:
    """UserError for what can be known to be wrong before the model is loaded."""
    check_model("--path", a.path)
    for name, folder in a.adapter:
        check_adapter(f"--adapter {name}", folder, a.path)
    check_device("--device", a.device)


def main() -> None:
    a = arguments()
    with one_line("serve"):
        check(a)
        listener = listen(a.host, a.port)
        from apo.rankers.vlm import RankingVLM  # transformers takes seconds

        limits = Limits(**{limit.name: getattr(a, limit.name) for limit in fields(Limits)})
        vlm = RankingVLM(a.path, a.dtype, FRAMES, fps=1.0).to(a.device)  # requests bring their own frames and times
        for _, folder in a.adapter:
            vlm.load_adapter(folder)
    app = build_app(Service(Answerer(vlm, dict(a.adapter), limits)))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
