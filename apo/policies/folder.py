"""A pipeline folder before anything of it is loaded: its files are whole, and nothing in it would run."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from apo.errors import UserError

LIBRARIES = ("diffusers", "transformers")  # whose classes a folder may name; diffusers imports what else it names
MODELS = ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATING = ("F", "BF")  # how safetensors names of floating-point types begin
COUNTED = "position_ids"  # old files of CLIP hold these beside the weights
REMEDY = "copy the pipeline folder again"


def check_folder(folder: Path) -> None:
    """UserError for a damaged file, for weights that are whole numbers, and for what would run code of the folder's
    own.
    """
    for name, (library, kind) in parts(folder).items():
        if library is not None and (library not in LIBRARIES or not isinstance(kind, str)):
            known = " and ".join(LIBRARIES)
            raise UserError(
                f"model.path={folder}: model_index.json takes {name} from {library!r}: give a folder with "
                f"parts of {known}"
            )
        for file in sorted((folder / name).glob("*")) if library is not None else []:
            if file.suffix == ".py":
                raise UserError(
                    f"model.path={folder}: {name}/{file.name} is code, which is not run: remove it, or give "
                    "another folder"
                )
            if file.suffix == ".json" and not file.name.startswith("tokenizer."):
                json_object(file)
            if file.suffix == ".safetensors":
                check_types(file)


def check_weights(folder: Path) -> None:
    """UserError unless each model of the folder has all of its weight files, as safetensors."""
    for name, (library, _) in parts(folder).items():
        if library is None or name not in MODELS:
            continue
        there = {file.name for file in (folder / name).glob("*")}
        if pickled := sorted(each for each in there if each.endswith(PICKLED)):
            if not any(each.endswith(".safetensors") for each in there):
                raise UserError(
                    f"model.path={folder}: {name}/{pickled[0]} is a pickle, which could run code: give safetensors"
                )
        for index in (folder / name).glob("*.safetensors.index.json"):
            needed = json_object(index).get("weight_map")
            if not isinstance(needed, dict) or (lacking := sorted({str(each) for each in needed.values()} - there)):
                raise UserError(
                    f"model.path={folder}: {name}/{lacking[0] if needed else index.name} is missing or "
                    f"damaged: {REMEDY}"
                )
        if not any(each.endswith(".safetensors") for each in there):
            raise UserError(f"model.path={folder}: {name} has no safetensors: {REMEDY}")


def parts(folder: Path) -> dict[str, tuple]:
    """name -> (library, class) of model_index.json; (None, None) of what the pipeline lacks."""
    index = json_object(folder / "model_index.json")
    found = {name: tuple(value) for name, value in index.items() if isinstance(value, list)}
    if "transformer" not in found or any(len(value) != 2 for value in found.values()):
        raise UserError(f"model.path={folder}: model_index.json is no pipeline's: {REMEDY}")
    return found


def json_object(file: Path) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model.path: {file} is missing or damaged ({error}): {REMEDY}") from None
    return found


def check_types(file: Path) -> None:
    """UserError unless a file of weights is whole (its header fits its size) and has floating-point numbers."""
    try:
        wrong = next(
            ((key, kind) for key, kind in types(file) if not kind.startswith(FLOATING) and not key.endswith(COUNTED)),
            None,
        )
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.path: {file} is damaged ({error}): {REMEDY}") from None
    if wrong:
        raise UserError(
            f"model.path: {file}: {wrong[0]} is of {wrong[1]}, and weights are floating-point numbers: {REMEDY}"
        )


def types(file: Path) -> Iterator[tuple[str, str]]:
    with safe_open(file, "pt") as opened:
        for key in opened.keys():
            yield key, opened.get_slice(key).get_dtype()
