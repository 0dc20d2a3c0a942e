"""Pictures of any shape in the shape that a model takes."""

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor


def fit(pixels: np.ndarray, height: int, width: int, pixel_aspect: float = 1.0, mode: str = "crop") -> Tensor:
    """(3, height, width) uint8 of (H, W, 3) uint8, resized, antialiased.

    mode: `crop` keeps the largest central part of that shape; `pad` keeps all and puts black bars around it.
    pixel_aspect: width of a source pixel over its height.
    """
    rows, columns = pixels.shape[:2]
    if mode == "pad":
        return letterboxed(pixels, height, width, columns * pixel_aspect / rows)
    top, left, bottom, right = central(rows, columns, width / height / pixel_aspect)
    return resized(pixels[top:bottom, left:right], height, width)


def central(rows: int, columns: int, aspect: float) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the largest central part of a picture. aspect: of the part, width over height in
    source pixels.
    """
    crop_rows, crop_columns = max(1, min(rows, round(columns / aspect))), max(1, min(columns, round(rows * aspect)))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    return top, left, top + crop_rows, left + crop_columns


def letterboxed(pixels: np.ndarray, height: int, width: int, aspect: float) -> Tensor:
    """The whole picture, (3, height, width) uint8, black where it does not reach. aspect: of the
    picture as it is seen.
    """
    rows, columns = max(1, min(height, round(width / aspect))), max(1, min(width, round(height * aspect)))
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas = torch.zeros(3, height, width, dtype=torch.uint8)
    canvas[:, top : top + rows, left : left + columns] = resized(pixels, rows, columns)
    return canvas


def resized(pixels: np.ndarray, height: int, width: int) -> Tensor:
    """(3, height, width) uint8 of (H, W, 3) uint8, whatever becomes of the proportions."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    scaled = nnf.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0].round().clamp(0, 255).byte()
