"""`data=world_prompts`: endless conditions of the world, in their order, encoded when they are needed."""

import hashlib

from torch.utils.data import Dataset

from apo.config.numbers import Seed
from apo.data.cached import stacked
from apo.data.pairs import PairDataset
from apo.data.stream import Data, Split
from apo.interfaces import Condition, Policy
from apo.parts import Setting
from apo.world.conditions import SplitName, WorldConditions, require_world
from apo.world.grammar import parse

ENDLESS = 10**9


class WorldPrompts(Data):
    """Conditions of a split. seed: which ones; the same for any number of ranks and any batch size."""

    gives = "prompts"

    def __init__(self, split: SplitName, seed: Seed):
        self.conditions = WorldConditions(split, ENDLESS, seed)

    def check(self, setting: Setting) -> None:
        """ValueError unless the model's videos are of the world's size."""
        require_world(setting.spec, "data=world_prompts", "data=prompts data.path=MANIFEST")

    def prepare(self, policy: Policy) -> Split:
        return Split(WorldPromptDataset(self.conditions, policy), PairDataset([], policy.max_sequence_length), in_turn)


class WorldPromptDataset(Dataset):
    """Item i is condition i in pixels; a batch is encoded by the policy's frozen parts, which are small
    in the world.
    """

    def __init__(self, conditions: WorldConditions, policy: Policy):
        self.conditions, self.policy = conditions, policy
        self.identity = hashlib.sha256(f"world_prompts {conditions.split} {conditions.seed}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.conditions)

    def __getitem__(self, index: int) -> dict:
        prompts, frames = self.conditions.batch(index, index + 1)
        return {"prompt": prompts[0], "frame": frames[0]}

    def collate(self, items: list[dict]) -> Condition:
        cond = self.policy.encode_condition([item["prompt"] for item in items], stacked(items, "frame"))
        cond.domain = [parse(prompt).domain for prompt in cond.prompt]
        return cond


def in_turn(dataset: Dataset, seed: int, position: int) -> int:
    """The position itself: the conditions' own seed says which they are."""
    return position % len(dataset)
