"""A base's own weights with an adapter in them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from apo.adapter.finished import Adapter, ExportError


@dataclass
class Fusion:
    """Base and adapter as one; `loss` is known once all `weights` were made."""

    adapter: Adapter
    base: Path
    lost: float = field(default=0.0, init=False)
    gained: float = field(default=0.0, init=False)

    def weights(self, expert: str) -> Iterator[tuple[Path, dict[str, Tensor]]]:
        """An expert's weight files, one in memory at a time: W + ΔW, rounded to the dtype of W."""
        deltas = self.adapter.deltas(expert)
        for file in sorted((self.base / expert).glob("*.safetensors")):
            weights = dict(tensors(file))
            for name in deltas.keys() & weights.keys():
                delta, weight = deltas[name](), weights[name]
                exact = weight.float() + delta
                weights[name] = exact.to(weight.dtype)
                self.lost += float((weights[name].float() - exact).square().sum())
                self.gained += float(delta.square().sum())
            yield file, weights

    def check(self, experts: list[str]) -> set[str]:
        """The names of all weights of these experts; ExportError unless each delta has one of them."""
        found = set()
        for expert in experts:
            there = {key for file in (self.base / expert).glob("*.safetensors") for key in names(file)}
            if lacking := sorted(self.adapter.deltas(expert).keys() - there):
                raise ExportError(
                    f"{self.base / expert} has no {lacking[0]}: the adapter was made for another architecture"
                )
            found |= there
        return found

    @property
    def loss(self) -> float:
        """‖rounded − exact‖ / ‖ΔW‖: what the base's dtype loses of the adapter."""
        return (self.lost / max(self.gained, 1e-30)) ** 0.5


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as stream:
        for key in stream.keys():
            yield key, stream.get_tensor(key)


def names(file: Path) -> list[str]:
    with safe_open(file, "pt") as stream:
        return list(stream.keys())
