"""Damaged and foreign state: checkpoints, run folders, adapters, caches, model folders, planted code, disks, locks,
exports.
"""

import json
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from apo.tools.cases import EITHER, OFFLINE, Case
from apo.tools.malformed_config import EVALUATE


def flipped(good: bytes) -> bytes:
    """A bit of the ninth byte from the end, where records and numbers are."""
    at = max(len(good) - 9, 0)
    return good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "cut": lambda good: good[: len(good) // 2],
    "noise": lambda good: bytes(range(256)) * 8,
    "text": lambda good: b"moved to the archive\n",
    "a bit flipped": flipped,
}
BEGUN, ADAPTER = "outputs/begun/offline", "outputs/made/run/adapter"
RESUME = (*OFFLINE, "run=begun")
NEXT = (*OFFLINE, f"adapter={ADAPTER}", "run=next")
EXPORT = ("-m", "apo.export", ADAPTER, "--out", "exported")
PAYLOAD = {"_target_": "os.system", "command": "touch pwned"}


class Planted:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return exec, ("open('pwned', 'w').close()",)


def damages(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Spoils the files of that pattern; a link to a shared folder becomes a copy first."""

    def spoil(tree: Path) -> None:
        owned(tree, pattern)
        for path in list(tree.glob(pattern)):
            path.write_bytes(change(path.read_bytes()))

    return spoil


def owned(tree: Path, pattern: str) -> None:
    if (top := tree / pattern.split("/")[0]).is_symlink():
        source = top.resolve()
        top.unlink()
        shutil.copytree(source, top)


def removes(pattern: str) -> Callable[[Path], None]:
    def spoil(tree: Path) -> None:
        owned(tree, pattern)
        for path in list(tree.glob(pattern)):
            path.unlink()

    return spoil


def folder_at(path: str) -> Callable[[Path], None]:
    def spoil(tree: Path) -> None:
        owned(tree, path)
        (tree / path).unlink()
        (tree / path).mkdir()

    return spoil


def weights(pattern: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Spoils every tensor of the files."""

    def spoil(tree: Path) -> None:
        owned(tree, pattern)
        for path in list(tree.glob(pattern)):
            save_file(
                {name: change(tensor).contiguous() for name, tensor in load_file(path).items()}, path, {"format": "pt"}
            )
            relineage(path)

    return spoil


def relineage(path: Path) -> None:
    """Lets the lineage name the spoiled file, so that its hash is not what gives it away."""
    from apo.io.checksums import file_digest

    if (lineage := path.with_name("lineage.json")).exists():
        content = json.loads(lineage.read_text())
        content["files"][path.name] = file_digest(path)
        lineage.write_text(json.dumps(content))


def planted(path: str, how: str) -> Callable[[Path], None]:
    def spoil(tree: Path) -> None:
        if how == "pickle":
            (tree / path).write_bytes(pickle.dumps(Planted()))
        elif how == "torch":
            torch.save({"state_dict": Planted(), "global_step": 1}, tree / path)
        else:
            content = json.loads((tree / path).read_text())
            for key in ("policy", "model", "guidance", "sampler", "module"):
                content["config"][key] = PAYLOAD
            (tree / path).write_text(json.dumps(content))

    return spoil


def disk(options: str, folder: str) -> Callable[[Path], Callable[[], object]]:
    """A small or read-only disk at a folder of the tree."""

    def spoil(tree: Path) -> Callable[[], object]:
        (tree / folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tree / folder], check=True)
        return lambda: subprocess.run(["umount", "-l", tree / folder], check=True)

    return spoil


def held(tree: Path) -> Callable[[], object]:
    """Another process trains in the run folder."""
    command = [sys.executable, *RESUME, "max_steps=5000", "run=held"]
    process = subprocess.Popen(
        command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (tree / "outputs/held/offline/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process.kill


def state() -> Iterator[Case]:
    for file in ("checkpoints/last.ckpt", "config.yaml", "start.json", "metrics.csv"):
        for name, change in DAMAGES.items():
            yield Case(f"{file}: {name}", RESUME, (Path(file).name,), damages(f"{BEGUN}/{file}", change), EITHER, True)
        yield Case(f"{file}: a folder", RESUME, (Path(file).name,), folder_at(f"{BEGUN}/{file}"), EITHER, True)
    for how in ("pickle", "torch"):
        yield Case(
            f"last.ckpt: planted {how}",
            RESUME,
            (r"last\.ckpt",),
            planted(f"{BEGUN}/checkpoints/last.ckpt", how),
            EITHER,
            True,
        )
    names = ("lineage.json", "high_noise.safetensors", "low_noise.safetensors")
    for command in (NEXT, EXPORT, EVALUATE):
        said = Path(command[0]).stem if command[0] != "-m" else "export"
        for file in names:
            for name, change in DAMAGES.items():
                yield Case(
                    f"{said}: {file}: {name}", command, (file,), damages(f"{ADAPTER}/{file}", change), loads=True
                )
            named = rf"{file}|no finished adapter"  # lineage.json is what an adapter is finished by
            yield Case(f"{said}: {file}: gone", command, (named,), removes(f"{ADAPTER}/{file}"), loads=True)
        spoil = planted(f"{ADAPTER}/lineage.json", "target")
        yield Case(f"{said}: lineage.json: planted", command, (r"lineage\.json",), spoil, EITHER, True)
        for name, change in {"NaN": lambda t: t * float("nan"), "integers": lambda t: t.int()}.items():
            yield Case(
                f"{said}: {names[1]}: {name}",
                command,
                (names[1],),
                weights(f"{ADAPTER}/{names[1]}", change),
                loads=True,
            )
    for name, change in DAMAGES.items():
        cached = damages("outputs/cache/pairs/*/*.safetensors", change)
        yield Case(f"cache: {name}", (*OFFLINE, "run=cached"), ("cache",), cached, EITHER, True)


def model() -> Iterator[Case]:
    for file in (
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ):
        for name in ("empty", "cut", "noise"):
            yield Case(
                f"model: {file}: {name}",
                OFFLINE,
                (file.split("/")[0],),
                damages(f"model/{file}", DAMAGES[name]),
                loads=True,
            )
        yield Case(f"model: {file}: gone", OFFLINE, (file.split("/")[0],), removes(f"model/{file}"), loads=True)
    spoiled = weights("model/transformer/*.safetensors", lambda t: t * float("nan"))
    yield Case("model: transformer: NaN", OFFLINE, ("transformer",), spoiled, loads=True)


def exports() -> Iterator[Case]:
    for name, words, said in (
        ("no adapter", ("nowhere", "--out", "exported"), "nowhere"),
        ("no --out", (ADAPTER,), "--out"),
        ("--out is a file", (ADAPTER, "--out", "data/pairs.jsonl"), "pairs.jsonl"),
        ("a run folder", ("outputs/made/run", "--out", "x"), "run"),
        ("--expert nope", (ADAPTER, "--out", "x", "--expert", "nope"), "expert"),
        ("--fuse nope", (ADAPTER, "--out", "x", "--fuse", "no"), "fuse"),
        ("--base nowhere", (ADAPTER, "--out", "x", "--fuse", "--base", "nowhere"), "nowhere"),
        ("--base is another", (ADAPTER, "--out", "x", "--fuse", "--base", "vlm"), "vlm"),
    ):
        yield Case(f"export: {name}", ("-m", "apo.export", *words), (said,), loads=True)


def disks() -> Iterator[Case]:
    for name, options, remedy in (
        ("full", "size=16k", "room"),
        ("nearly full", "size=60k", "room"),
        ("read-only", "ro", "read-only"),
    ):
        yield Case(
            f"disk: outputs {name}",
            (*OFFLINE, "data.cache_dir=cache"),
            (remedy,),
            disk(options, "outputs/case"),
            loads=True,
        )
        out, options = (
            ("-m", "apo.export", ADAPTER, "--out", "small/out"),
            options.replace("60k", "28k"),
        )  # one of two files of 17k fits
        yield Case(f"disk: export {name}", out, (remedy,), disk(options, "small"), loads=True)
        if name == "nearly full":
            continue  # a few latents or pictures fit
        yield Case(
            f"disk: cache {name}", (*OFFLINE, "data.cache_dir=small"), (remedy,), disk(options, "small"), loads=True
        )
        yield Case(
            f"disk: evaluate {name}", EVALUATE, (remedy,), disk(options, "outputs/made/run/eval_prompts"), loads=True
        )


def cases() -> Iterator[Case]:
    yield from (*state(), *model(), *exports(), *disks())
    yield Case("lock: another process trains there", (*OFFLINE, "run=held", "max_steps=5000"), (r"\d+", "held"), held)
