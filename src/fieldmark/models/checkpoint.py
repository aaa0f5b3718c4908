"""Write a model's folder whole or not at all; read weights and never a pickled object."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from fieldmark.core.errors import FieldmarkError, InputError, RunExistsError
from fieldmark.core.sealed import SEAL, judge, seal

# A folder that holds one of these was written as a model and may be replaced by another model.
MODEL_FILES = ("open_clip_config.json", "config.json", "fake_encoder.json")
# No vocabulary, no width and no image of an encoder is as large.
LARGEST = 2**20
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place when the block ends well.

    An earlier model in `folder` is replaced; anything else that is there is left alone.

    Raises:
        RunExistsError: `folder` holds something that is no model.
        FieldmarkError: the folder cannot be written (a full disk, no permission).

    Example:
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with replacing_folder(Path(root) / "model") as part:
        ...         _ = (part / "config.json").write_text("{}")
        ...     [path.name for path in sorted(Path(root).rglob("*"))]
        ['model', 'config.json']
    """
    folder = folder.absolute()
    if folder.exists() and not _replaceable(folder):
        raise RunExistsError(
            "holds something that is no model", where=folder, mend="choose another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)
        _exchange(part, folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint(MODEL_FILES)


def _exchange(part: Path, folder: Path) -> None:
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_name(part.name.replace(".part-", ".old-"))
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _unwritable(folder: Path, error: Exception) -> FieldmarkError:
    reason = getattr(error, "strerror", None) or str(error)
    return FieldmarkError(
        f"cannot be written ({reason})", where=folder, mend="free some space or choose another"
    )


def write_weights(model: nn.Module, path: Path) -> None:
    """Write all weights and saved buffers of a model as safetensors, with their checksum.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_weights(nn.Linear(2, 1), Path(folder) / "a.safetensors")
        ...     sorted(safetensors.torch.load_file(Path(folder) / "a.safetensors"))
        ['bias', 'weight']
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        # safetensors refuses two names for one piece of memory.
        address = value.untyped_storage().data_ptr()
        state[name] = value.clone() if address in seen else value
        seen.add(address)
    safetensors.torch.save_file(state, path, metadata={**SEAL, "format": "pt"})
    seal(path)


def find_weights(folder: Path, *, names: tuple[str, ...]) -> Path:
    """Return the first of `names` that is in a local folder, or its only safetensors file.

    Raises:
        InputError: there is none, or only pickles, which are refused whatever they hold.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"holds {len(found)} safetensors files and none is called {names[0]}",
            where=folder,
            mend=f"rename the right one to {names[0]}",
        )
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise InputError(
            f"holds its weights as {pickles[0]}, a pickle, which can run code when it is read",
            where=folder,
            mend="convert it to safetensors",
        )
    raise InputError("holds no weights", where=folder, mend=f"put {names[0]} there")


def check_sizes(config: Any, *, where: Path | str) -> None:
    """Refuse a configuration with sizes that no encoder has, before anything of them is allocated.

    Args:
        config: its values, as JSON has them.
        where: it is from.

    Raises:
        InputError: more than 1,000 layers, or another number of more than `LARGEST`.

    Example:
        >>> check_sizes({"text_config": {"num_hidden_layers": 10**6}}, where="config.json")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: config.json: says num_hidden_layers = 1000000; mend it
    """
    parts = [("", config)]
    while parts:
        name, value = parts.pop()
        if isinstance(value, dict):
            parts += [(str(key), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            parts += [(name, part) for part in value]
        elif isinstance(value, int | float) and value > (1000 if "layers" in name else LARGEST):
            raise InputError(f"says {name[:80]} = {str(value)[:80]}", where=where, mend="mend it")


def load_weights(load: Callable[[], object], *, path: Path) -> None:
    """Call `load`, turning what a damaged or foreign weight file raises into one line.

    Weights that fieldmark wrote carry a checksum, which is checked first; others' have none.

    Raises:
        InputError: the file is damaged or belongs to another model.
    """
    if path.suffix == ".safetensors" and path.is_file() and judge(path) == "damaged":
        raise InputError(
            "these weights cannot be loaded (the file is cut off or damaged)",
            where=path,
            mend="make the encoder again, or copy it again from where it is whole",
        )
    errors = (
        *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
        *(OSError, EOFError, pickle.UnpicklingError),
    )
    try:
        load()
    except (*errors, safetensors.SafetensorError) as error:
        raise InputError(
            f"these weights cannot be loaded ({' '.join(str(error).split())[:200]})",
            where=path,
            mend="check that the file is whole and belongs to this configuration",
        ) from error
