"""How Lightning and torch.distributed write and read what `apo.modules.checkpoints` checks."""

import pickle
from pathlib import Path

import torch.distributed.checkpoint as dcp
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.metadata import Metadata

from apo.errors import UserError
from apo.modules.checkpoints import read, write


class WholeFiles(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints that are one file. Its own writes to TMPDIR first,
    which may be small.
    """

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        return read(Path(path))


class TensorReader(dcp.FileSystemReader):
    """torch's reader of sharded tensors, which unpickles the folder's `.metadata`: here only what describes tensors."""

    def read_metadata(self, *args, **kwargs) -> Metadata:
        try:
            with open(Path(self.path) / ".metadata", "rb") as file:
                found = Descriptions(file).load()
            names = [info.relative_path for info in found.storage_data.values()]
            if outside := [name for name in names if Path(name).name != name]:
                raise ValueError(f"{outside[0]} is not in that folder")
        except Exception as error:  # damage can make a reader stumble anywhere
            raise UserError(
                f"{self.path}/.metadata is not one that train.py writes ({error}): it was not read"
            ) from None
        found.storage_meta.load_id = self.load_id
        return found


class Descriptions(pickle.Unpickler):
    """Admits the classes that torch describes tensors with, and no other: those of other objects would have them
    unpickled too.
    """

    ADMITTED = {
        "torch.distributed.checkpoint.metadata": {
            "Metadata",
            "TensorStorageMetadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "MetadataIndex",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch": {"Size", "float32", "bfloat16", "float16", "int64"},
        "torch.serialization": {"_get_layout"},
        "pathlib": {"PosixPath"},
    }

    def find_class(self, module: str, name: str):
        if name not in self.ADMITTED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} describes no tensor")
        return super().find_class(module, name)
