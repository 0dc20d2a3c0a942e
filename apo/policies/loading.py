"""diffusers' own loading of a pipeline folder, with what it lets pass."""

from pathlib import Path

from diffusers import WanImageToVideoPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from apo.errors import UserError
from apo.io.files import is_finite
from apo.policies.folder import REMEDY, check_weights

STORED = (
    "transformer",
    "transformer_2",
    "vae",
)  # their parameters have the files' names; other libraries tie and rename some


def pipeline_of(folder: Path, **settings) -> WanImageToVideoPipeline:
    """The pipeline, from safetensors alone. UserError if diffusers can't load it, or a weight is not in the files or
    not finite.
    """
    check_weights(folder)
    try:
        pipeline = WanImageToVideoPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, **settings
        )
    except Exception as error:  # whatever diffusers and transformers raise for what they can't read
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"model.path={folder}: diffusers can't load it ({type(error).__name__}: {said}): {REMEDY}"
        ) from error
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            check_part(part, folder / name)
    return pipeline


def check_part(part: nn.Module, folder: Path) -> None:
    """UserError unless all parameters came from the folder's files (diffusers draws the others at random) and are
    finite.
    """
    names = dict(part.named_parameters())
    if folder.name in STORED and (lacking := sorted(names.keys() - stored(folder))):
        raise UserError(f"model.path: {folder} has {len(lacking)} weights too few, {lacking[0]} first: {REMEDY}")
    if damaged := next((name for name, weight in names.items() if not is_finite(weight)), None):
        raise UserError(f"model.path: {folder}: {damaged} has values that are not finite: {REMEDY}")


def stored(folder: Path) -> set[str]:
    """The names of the tensors in a folder's files."""
    found = set()
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as opened:
                found |= set(opened.keys())
        except (OSError, SafetensorError) as error:
            raise UserError(f"model.path: {file} is damaged ({error}): {REMEDY}") from None
    return found
