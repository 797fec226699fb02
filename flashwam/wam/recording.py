# SPDX-License-Identifier: Apache-2.0
"""Recorded work on tensors at fixed addresses: a CUDA graph, and the same thing for a CPU, call by call.

Work that is recorded may depend on nothing but the contents of its tensors: whatever Python decides while it is
recorded is held fast. It must wait for nothing and read no number back.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "CallRecorder",
    "CannotRecordError",
    "CudaRecorder",
    "Recorder",
    "Recording",
    "Recordings",
    "casts",
    "tensors_of",
]

logger = logging.getLogger(__name__)

Work = Callable[[], Any]
"""Gives a tensor, several of them or nothing."""


class Recording(ABC):
    """Work that is done again over the same tensors.

    Attributes:
        result: What the work returned, at a fixed address; `replay` writes it anew.
    """

    result: Any

    @abstractmethod
    def replay(self) -> None:
        """Does the work once more, on what the tensors hold now."""


class Recorder(ABC):
    """Records work of one device."""

    @abstractmethod
    def record(self, work: Work) -> Recording:
        """Records work, which may be run a few times for that.

        Raises:
            RuntimeError: it cannot be recorded.
        """


class CudaRecorder(Recorder):
    """Captures CUDA graphs, which share one pool of memory since one runs at a time.

    Args:
        device: Where the work runs, whichever device is the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        # One for all: libraries keep a workspace for every stream that they have seen.
        self._side = torch.cuda.Stream(device)
        # Torch's own stream of captures is of the device that was the first to have one.
        self._capture = torch.cuda.Stream(device)

    def record(self, work: Work) -> Recording:
        """See `Recorder.record`."""
        with torch.cuda.device(self._device):
            return self._captured(work)

    def _captured(self, work: Work) -> Recording:
        # Compilers and libraries set themselves up in the first runs, which a capture does not allow.
        side = self._side
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(2):
                    work()
        finally:
            torch.cuda.current_stream().wait_stream(side)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        first: list[Exception] = []
        try:
            # Other threads may go on using the device, such as one that embeds the next prompt.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._capture, capture_error_mode="thread_local"):
                try:
                    result = work()
                except Exception as error:
                    first.append(error)
                    raise
        except Exception as error:
            # A capture that something forbidden has ended leaves its stream current and its pool taken, and the error
            # that comes of it hides the one that ended it.
            torch.cuda.set_stream(current)
            self._renew_pool()
            raise (first or [error])[0] from None
        return _CudaRecording(graph, result)

    def _renew_pool(self) -> None:
        end = getattr(torch._C, "_cuda_endAllocateToPool", None)
        if end is not None:
            with contextlib.suppress(RuntimeError):
                end(torch.cuda.current_device(), self._pool)
        self._pool = torch.cuda.graph_pool_handle()


class _CudaRecording(Recording):
    def __init__(self, graph: torch.cuda.CUDAGraph, result: Any) -> None:
        self._graph, self.result = graph, result

    def replay(self) -> None:
        self._graph.replay()


class CallRecorder(Recorder):
    """Notes every call of torch that work makes and makes them again over the same tensors.

    It holds what a CUDA graph holds and refuses what a capture refuses, so that recorded passes are tested where there
    is no GPU. It makes nothing faster, and code that a compiler has made without calls of torch escapes it.
    """

    def record(self, work: Work) -> Recording:
        """See `Recorder.record`."""
        work()
        calls = _Calls()
        with calls:
            result = work()
        return _CallRecording(calls.made, result)


class _Calls(TorchDispatchMode):
    """Lists calls, with arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Lets compiled code run as such: its calls are noted like any others."""
        return True

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in call.tags or torch.Tag.dynamic_output_shape in call.tags:
            raise RuntimeError(f"{call} reads numbers back or makes a shape of them, which cannot be recorded")
        result = call(*args, **(kwargs or {}))
        devices = {value.device for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{call} goes from one device to another ({sorted(map(str, devices))}): not recorded")
        self.made.append((call, args, kwargs or {}, result))
        return result


class _CallRecording(Recording):
    def __init__(self, made: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]], result: Any) -> None:
        # A view needs no second making: it shows what its base holds.
        self._made = [call for call in made if not call[0].is_view]
        self.result = result

    def replay(self) -> None:
        for call, args, kwargs, result in self._made:
            for old, new in zip(_tensors(result), _tensors(call(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.numel()]


@contextlib.contextmanager
def _no_cast_copies() -> Iterator[None]:
    """Under autocast weights are rounded anew in every pass: of copies that it keeps, a replay would read what has long
    changed or gone. Without, what is compiled would be compiled once more for the switch."""
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(kept and not any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")))
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)


class CannotRecordError(RuntimeError):
    """Something cannot be recorded; the message says why."""


class Recordings:
    """Makes and counts the recordings of one model, and where there are none, says why.

    Args:
        recorder: CUDA graphs if None, which need the model on a GPU.
        of: What is said to be graphed.
        user: What runs without graphs where there are none.

    Attributes:
        count: Recordings made so far.
        failed: Why nothing more is recorded; empty while something can be. What was recorded before is still of use.
    """

    def __init__(self, recorder: Recorder | None = None, *, of: str = "rollout", user: str = "a session") -> None:
        self.count = 0
        self.failed = ""
        self._of, self._user = of, user
        self._given = self._recorder = recorder
        self._device: torch.device | None = None
        self._compiles = True
        self._said: set[str] = set()

    def __deepcopy__(self, memo: Any) -> "Recordings":
        """None of the recordings: they run the model that this was made for."""
        return Recordings(self._given, of=self._of, user=self._user)

    def check(self, device: torch.device, blocks: nn.Module) -> None:
        """Checks that what runs these blocks on a device can be recorded.

        Raises:
            CannotRecordError: It cannot.
        """
        foreign = {type(module).__name__ for module in blocks.modules() if not _is_plain(module)}
        if foreign:
            raise CannotRecordError(f"adapters are not merged into the weights (layers {', '.join(sorted(foreign))})")
        if self._given is not None or device == self._device:
            return
        if device.type != "cuda":
            raise CannotRecordError(f"CUDA graphs need a GPU, and the model is on {device}")
        # The model may have been moved.
        self._recorder, self._device, self.failed = CudaRecorder(device), device, ""

    @_no_cast_copies()
    def record(self, work: Work, *, compiled: Work | None = None) -> Recording | None:
        """Records work, and says what had to be left out; None where it, or nothing more, can be recorded.

        Args:
            work: As it is.
            compiled: The same in compiled parts, which is recorded in its place until one cannot be.

        Raises:
            Exception: Whatever the work itself raises; nothing else is left unrecorded for that.
        """
        if self.failed:
            return None
        with torch.inference_mode(False), torch.no_grad():
            work()
        if compiled is not None and self._compiles:
            try:
                return self._made(compiled)
            except CannotRecordError as error:
                self._compiles = _lacked_memory(error)
                logger.warning("%s 'graphed': blocks are recorded as they are, not compiled (%s)", self._of, error)
        try:
            return self._made(work)
        except CannotRecordError as error:
            reason = f"a pass could not be recorded ({error})"
            # Memory may be there for others, or later.
            self.failed = "" if _lacked_memory(error) else reason
            self.say(reason)
            return None

    def _made(self, work: Work) -> Recording:
        assert self._recorder is not None
        try:
            with torch.inference_mode(False), torch.no_grad():
                recording = self._recorder.record(work)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "no more is known")
            raise CannotRecordError(f"{type(error).__name__}: {first}") from error
        self.count += 1
        logger.info("%s 'graphed': recorded pass %d", self._of, self.count)
        return recording

    def say(self, reason: object) -> None:
        """Warns that something runs without graphs; of a reason that was told before it is no more than information."""
        level = logging.INFO if str(reason) in self._said else logging.WARNING
        self._said.add(str(reason))
        logger.log(level, "%s 'graphed': %s runs without graphs, since %s", self._of, self._user, reason)


def _lacked_memory(error: CannotRecordError) -> bool:
    return isinstance(error.__cause__, torch.OutOfMemoryError)


def casts(device: torch.device) -> torch.dtype | None:
    """The numbers that autocast puts work of a device into, which a recording of it holds fast; None without."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.get_autocast_dtype(device.type) if known and torch.is_autocast_enabled(device.type) else None


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Lists what a recording of a model reads beside its inputs: parameters and buffers."""
    return [x.detach() for x in (*model.parameters(), *model.buffers())]


def _is_plain(module: object) -> bool:
    home = type(module).__module__
    return home.partition(".")[0] in {"torch", "diffusers"} or home.startswith("flashwam.wam.")
