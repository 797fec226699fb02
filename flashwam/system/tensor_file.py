# SPDX-License-Identifier: Apache-2.0
"""Files of tensors: ours appear whole; of those that anybody may have written, headers are checked before a byte of
memory is taken."""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import final_path, whole_file, write_whole
from flashwam.system.json_file import parse_json, shown
from flashwam.system.lfs import refuse_pointer

__all__ = ["fitting", "load_tensors", "read_header", "write_tensors", "write_torch"]

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
_LARGEST_HEADER = 2**25
_FREE_PARAMETERS, _FREE_ELEMENTS = 2**9, 2**24


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Header of a safetensors file, without its tensors.

    Returns:
        (key -> dtype, shape and data_offsets; metadata).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no safetensors file, is shorter or longer than its header says, or its header says what
            cannot be.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} must be a safetensors file; it is a folder or a device")
    refuse_pointer(path)
    held = path.stat().st_size - 8
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_LARGEST_HEADER, held):
            raise InputError(f"{path} is no safetensors file, or cut off: a header of {size:,} bytes in {held + 8:,}")
        text = file.read(size)
    try:
        header = parse_json(text, "the header")
    except ValueError as error:
        raise InputError(f"{path} is no safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path} is no safetensors file: its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{path}: __metadata__ must hold texts; got {shown(metadata)}")
    ends = sorted(_place(path, key, entry) for key, entry in header.items())
    at = 0
    for begin, end, key in ends:
        if begin != at:
            what = "overlaps the tensor before it" if begin < at else "leaves bytes before it that nothing owns"
            raise InputError(f"{path}: {key!r} {what}: it begins at byte {begin:,}, expected {at:,}")
        at = end
    if at != held - size:
        raise InputError(f"{path} is cut off or too long: expected {8 + size + at:,} bytes, got {held + 8:,}")
    return header, metadata


def load_tensors(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Every tensor of a safetensors file whose header holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged; the message names it.
    """
    if not path.exists():
        raise MissingFileError(f"{path} is missing")
    read_header(path)
    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file: {error}") from error


@contextmanager
def fitting(files: Path | Iterable[Path]) -> Iterator[None]:
    """Within it a module may be built whose size a file of settings tells, no larger than its weights can fill.

    Without it, a line such as `num_layers: 100000` takes minutes and all memory before any key is compared. What is
    built from the weights of `files` has as many parameters as those hold; twice that, and a little for the smallest,
    is let through, so that one which merely does not fit is told by its keys.

    Args:
        files: Safetensors files, or a folder below which all are meant.

    Raises:
        ValueError: More is built, or a file is damaged.
    """
    found = sorted(files.rglob("*.safetensors")) if isinstance(files, Path) else list(files)
    shapes = [entry["shape"] for path in found for entry in read_header(path)[0].values()]
    allowed = _Allowed(
        what=str(files if isinstance(files, Path) else next(iter(found), "no file")),
        parameters=2 * len(shapes) + _FREE_PARAMETERS,
        elements=2 * sum(map(math.prod, shapes)) + _FREE_ELEMENTS,
    )
    token = _allowed.set(allowed)
    handle = register_module_parameter_registration_hook(_count)
    try:
        with allowed:
            yield
    except (MemoryError, OverflowError) as error:
        raise InputError(f"{allowed.what}: its settings describe what fits into no memory ({error})") from error
    finally:
        handle.remove()
        _allowed.reset(token)


class _Allowed(TorchDispatchMode):
    """The budget of bytes that may still be built; refuses a tensor before its memory is taken."""

    def __init__(self, *, what: str, parameters: int, elements: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch writes no types there
        self.what, self.parameters, self.elements = what, parameters, elements
        self._left, self._room = parameters, elements

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        size = args[0] if args else None
        if isinstance(size, (list, tuple)) and size and all(isinstance(side, int) for side in size):
            self._check(math.prod(size) <= self.elements, f"a tensor {shown(tuple(size))}")
        return function(*args, **(kwargs or {}))

    def count(self, parameter: nn.Parameter) -> None:
        """Takes one parameter of a module into account."""
        self._left -= 1
        self._room -= parameter.numel()
        self._check(self._left >= 0, f"more than {self.parameters:,} tensors")
        self._check(self._room >= 0, f"more than {self.elements:,} numbers")

    def _check(self, fits: bool, made: str) -> None:
        if not fits:
            raise InputError(f"{self.what}: its settings describe a network of {made}, which its weights cannot fill")


_allowed: ContextVar[_Allowed | None] = ContextVar("flashwam_allowed", default=None)


def _count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    allowed = _allowed.get()
    if allowed is not None and parameter is not None:
        allowed.count(parameter)


def _place(path: Path, key: str, entry: Any) -> tuple[int, int, str]:
    """(first byte, byte after the last, key) of one tensor, whose size fits its shape and dtype."""
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {key!r} must have dtype, shape and data_offsets; got {shown(entry)}")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise InputError(f"{path}: {key!r} has dtype {shown(dtype)}; expected one of {', '.join(_BITS)}")
    for name, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(x) is int and 0 <= x < 2**63 for x in value):
            raise InputError(f"{path}: {key!r} has {name} {shown(value)}; expected whole numbers of at least 0")
    if len(shape) > 32 or len(offsets) != 2:
        raise InputError(f"{path}: {key!r} has shape {shown(shape)} and data_offsets {shown(offsets)}")
    bytes_, odd = divmod(math.prod(shape) * _BITS[dtype], 8)
    if odd or offsets[1] - offsets[0] != bytes_:
        raise InputError(
            f"{path}: {key!r} is {dtype} {shown(tuple(shape))}, {bytes_:,} bytes, but its data_offsets are {offsets}"
        )
    return offsets[0], offsets[1], key


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes a safetensors file that appears whole; a model that reads the old one may go on doing so.

    Args:
        path: The file.
        tensors: By their keys; each is written by itself, also where two share their memory.
        metadata: Texts for its header.

    Returns:
        `path`.

    Raises:
        OSError: The disk refuses it.
    """
    held: dict[str, Tensor] = {}
    memory: set[int] = set()
    for key, tensor in tensors.items():
        x = tensor.detach().to("cpu").contiguous()
        held[key] = x.clone() if x.untyped_storage().data_ptr() in memory else x
        memory.add(x.untyped_storage().data_ptr())
    with whole_file(path) as building:
        try:
            save_file(held, building, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{final_path(path)} could not be written: {error}") from error
    return path


def write_torch(path: Path, value: Any) -> Path:
    """Writes tensors and plain values as `torch.load` reads them; the file appears whole. Returns its path.

    Raises:
        OSError: The disk refuses it.
    """
    content = io.BytesIO()
    torch.save(value, content)
    return write_whole(path, content.getvalue())
