"""Lets the torchvision wheel of PyPI be imported beside a CPU build of torch, whose operators it can't load.

Installing the project puts this file and `cpu_torchvision.pth` into the environment's site-packages (pyproject.toml
says so). The .pth file has Python import it at every start, so that plain transformers and diffusers work there, too.
It does nothing until torchvision is imported, and nothing then if torchvision's operators load. None of them is used
here; torchvision registers shapes for them as it is imported, which fails unless they are declared.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

declared = []  # torch forgets a library that nobody holds


class DeclareOperators(MetaPathFinder):
    """Declares the operators when torchvision is first looked for, and leaves finding it to others."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(name, path)
            if spec is not None and not operators_load(Path(spec.origin).parent / "_C.so"):
                declare("nms", "qnms")
        return None


def operators_load(library: Path) -> bool:
    import torch

    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True


def declare(*names: str) -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    declared.append(library)
    for name in names:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, DeclareOperators())
