"""`transformers serve` as it is, but pictures are decoded by PIL: torchvision's decoder doesn't load beside a CPU build
of torch.
"""

import io

import torch
import torchvision.io
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from transformers.cli.transformers import main


def decode_image(data: torch.Tensor, mode, apply_exif_orientation: bool) -> torch.Tensor:
    return pil_to_tensor(Image.open(io.BytesIO(bytes(data.numpy()))).convert(mode.name))


if __name__ == "__main__":
    torchvision.io.decode_image = decode_image
    main()
