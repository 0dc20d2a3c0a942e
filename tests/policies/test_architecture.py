"""What is said of a transformer without building it is what diffusers builds."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from apo.policies.architecture import PUBLISHED, linear_layers


@pytest.mark.parametrize("path", PUBLISHED)
def test_linear_layers_are_those_that_diffusers_builds(path):
    transformer = PUBLISHED[path].transformer | {"num_layers": 2}
    with torch.device("meta"):
        built = WanTransformer3DModel(**transformer)
    assert sorted(linear_layers(transformer)) == sorted(
        n for n, layer in built.named_modules() if isinstance(layer, torch.nn.Linear)
    )
