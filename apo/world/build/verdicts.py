"""Judges the videos of `data=world_pairs` and writes their verdicts (minutes; see `apo.world.verdicts`).

python -m apo.world.build.verdicts [--out FILE]
"""

import argparse
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from hydra.utils import instantiate
from torch import Tensor

from apo.config.overrides import composed
from apo.policies.wan import WanPolicy
from apo.terminal import progress
from apo.world import verdicts
from apo.world.pairs import WorldPairs, judged


def verdicts_of(data: WorldPairs, policy: WanPolicy) -> Iterator[Tensor]:
    """(2, B) of each batch, up to the one that holds the last of the pairs."""
    found = 0
    with progress(total=data.count, desc="world pairs", delay=2) as bar, policy.using(None), policy.evaluating():
        for batch in count():
            if found >= data.count:
                return
            distorted = judged(policy, *data.candidates(policy, batch))
            yield distorted
            found += int((distorted[0] != distorted[1]).sum())
            bar.update(min(found, data.count) - bar.n)


def main() -> None:
    parser = argparse.ArgumentParser(prog="apo.world.build.verdicts", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=verdicts.FILE)
    given = parser.parse_args()
    cfg = composed("train", [])
    torch.set_num_threads(1)
    policy, data = instantiate(cfg.policy), instantiate(cfg.data)
    verdicts.write(given.out, data.folder(policy).name, verdicts_of(data, policy))


if __name__ == "__main__":
    main()
