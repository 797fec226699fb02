# SPDX-License-Identifier: Apache-2.0
"""A served chunk as a robot sees it, by stage: message, pictures, autoencoder, chunk, action codec, wire.

    python benchmarks/serving.py --sizes real --device cuda --dtype bfloat16 --rollout graphed
    python benchmarks/serving.py --sizes tiny                                shows on a CPU that it runs

RoboTwin's cameras, or one camera for CogVideoX; random weights, a student of 1v/1a; the prompt is embedded already, as
it is for all chunks of an episode. Three times over the same long episode: through a server and a client on this
machine, as they are; the same with all pictures but the last sent as they are seen ("early"); and in this process with
the device waited for after every stage, which adds a little to the whole. Young are the chunks before the window is
full, the first three left out.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import about, keep, progress
from published_loop import SHIFT
from sizes import JOINT_SIZES, ROBOTWIN, SIZES, STREAMS, TEXT_TOKENS, random_joint_wam, random_wam
from timing import NOT_MEASURED, Clock, forget_peak, peak_bytes
from torch import Tensor

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.precision import PRECISIONS
from flashwam.data.actions import ActionNorm
from flashwam.recipe.load import load_recipe
from flashwam.sampling import Rollout, StreamSampler
from flashwam.serve.client import PolicyClient
from flashwam.serve.latency import percentiles
from flashwam.serve.model import ServedModel, describe_sampling
from flashwam.serve.options import ServerOptions
from flashwam.serve.protocol import pack, unpack
from flashwam.serve.server import serving
from flashwam.serve.warm_up import warm_up
from flashwam.wam.cogvideox.files import CogVideoXFiles
from flashwam.wam.encoder_passes import ENCODERS
from flashwam.wam.lingbot_va.files import LingBotFiles
from flashwam.wam.lingbot_va.presets import preset

LEFT_OUT = 3
SEED = 0
TINY_VAE = {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
TINY_JOINT_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
TINY_CAMERA = SimpleNamespace(cameras=("camera",), camera_size=(32, 32), layout="width", resize="cover")
TINY_CAMERAS = SimpleNamespace(cameras=("camera",), camera_size=(64, 64), layout="width", resize="stretch")
STAGES = {
    "unpack": "the request's message",
    "pictures": "sizes and numbers of the pictures, to the device",
    "autoencoder": "pictures to latents",
    "observe": "executed actions to the model, both into its past",
    "chunk": "the model",
    "actions": "to the host and to the robot's units",
    "pack": "the reply's message",
}
Chunks = list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Robot:
    """A model as it is served, and what its robot sends.

    Args:
        served: The model.
        codec: Its codec, shared by episodes.
        seen: Pictures of one moment, camera -> uint8 [rows, columns, 3].
    """

    served: ServedModel
    codec: Any
    seen: dict[str, np.ndarray]

    def pictures(self, frames: int) -> list[dict[str, np.ndarray]]:
        """Of some latent frames."""
        return [self.seen] * (frames * self.codec.keyframes_per_frame)


def robot(
    size: str,
    rollout: str,
    *,
    encoder: str = "plain",
    precision: str = "own",
    device: torch.device,
    dtype: torch.dtype,
) -> Robot:
    """Builds it with random weights."""
    torch.manual_seed(0)
    made = {"device": device, "dtype": dtype, "rollout": rollout}
    if size in JOINT_SIZES:
        wam, tiny = random_joint_wam(size, **made), size == JOINT_SIZES[0]
        data = TINY_CAMERA if tiny else load_recipe("videovla/robot/videovla").data
        bounds = (1.0,) * wam.config.action_dim
        actions = ActionNorm(q01=tuple(-b for b in bounds), q99=bounds, used=tuple(range(len(bounds))))
        files, small = CogVideoXFiles(), TINY_JOINT_VAE
        schedules = dict.fromkeys(STREAMS, wam.schedule)
    else:
        wam, tiny = random_wam(size, ROBOTWIN, **made), size == "tiny"
        data = TINY_CAMERAS if tiny else load_recipe("lingbot_va/robotwin/flash_wam").data
        actions, files, small = preset("robotwin").actions(clip=None), LingBotFiles(), TINY_VAE
        schedules = {name: NoiseSchedule(shift=SHIFT[name]) for name in STREAMS}
    wam.eval().requires_grad_(False)
    wam.choose_precision(precision)
    length, width = wam.text_shape
    text = torch.randn(length or TEXT_TOKENS, width).to(dtype)
    shown = {"actions": actions, "prompts": lambda _: text, "device": device, "dtype": dtype}
    codec = files.blank_codec(data, **shown, **(small if tiny else {}))
    samplers = {
        name: StreamSampler(schedule=schedule, consistency=Linear(), steps=1) for name, schedule in schedules.items()
    }
    codec.vae.choose_encoder(encoder)
    facts = {**codec.facts, **describe_sampling(wam, samplers), "encoder": encoder}
    metadata = {"name": "random weights", "kind": "student", **facts}
    served = ServedModel(wam=wam, samplers=samplers, codec=codec.open, metadata=metadata)
    rng = np.random.default_rng(0)
    seen = {key: rng.integers(0, 256, (*data.camera_size, 3), np.uint8) for key in data.cameras}
    return Robot(served=served, codec=codec, seen=seen)


def over_the_wire(one: Robot, chunks: int, *, early: bool = False) -> tuple[Chunks, float, np.ndarray]:
    """Milliseconds of every chunk at the client, those of a reset, and the last controls.

    Args:
        one: The model.
        chunks: To draw.
        early: Each chunk's pictures but the last one have been sent, and taken, when the clock starts.
    """
    measured: Chunks = []
    idle = Clock(next(one.served.wam.parameters()).device)
    with serving(one.served, ServerOptions(port=0, max_sessions=1)) as running, PolicyClient(running.url) as client:
        begun = time.perf_counter()
        client.reset("push the button", seed=SEED)
        reset = 1000 * (time.perf_counter() - begun)
        controls = client.infer(one.seen)
        frames = controls.shape[1] - 1
        for _ in range(chunks):
            pictures = one.pictures(frames)
            for picture in pictures[:-1] if early else []:
                client.look([picture], wait=True)
            if early:
                # Taken, not just begun: on a robot they lie controls apart.
                pictures = pictures[-1:]
                idle()
            begun = time.perf_counter()
            client.refresh(pictures, controls)
            computed, told = client.timing["infer_ms"], time.perf_counter()
            controls = client.infer()
            computed, ended = computed + client.timing["infer_ms"], time.perf_counter()
            frames = controls.shape[1]
            whole = 1000 * (ended - begun)
            measured.append(
                {
                    "refresh": 1000 * (told - begun),
                    "infer": 1000 * (ended - told),
                    "both": whole,
                    "messages and wire": whole - computed,
                }
            )
    return measured, reset, controls


@torch.no_grad()
def by_stage(one: Robot, chunks: int) -> tuple[Chunks, np.ndarray]:
    """Milliseconds of every chunk's stages in this process, and the last controls: the server's."""
    wam, codec = one.served.wam, one.codec
    device = next(wam.parameters()).device
    clock, session = Clock(device), codec.open()
    alone = wam.conditions_on_first
    encoders = [codec.vae.encode_alone if alone else codec.vae.open().encode for _ in codec.cameras.groups]

    def encoded(pixels: list[Tensor]) -> Tensor:
        return codec.cameras.join([encode(x) for encode, x in zip(encoders, pixels, strict=True)]).float()

    def on_device(observations: Any) -> list[Tensor]:
        return codec.cameras.pixels(observations, device=device)

    first = encoded(on_device([one.seen]))
    actions, per_frame, _ = wam.shapes["action"]
    rollout = Rollout(
        wam,
        one.served.samplers,
        text=codec.text("")[None].to(device),
        first={"video": first, "action": first.new_zeros(1, actions, 1, per_frame, 1)},
        generator=torch.Generator().manual_seed(SEED),
    )
    measured: Chunks = []
    executed = rollout.executed
    controls = _controls(session, rollout.predict(), slice(0, executed.stop))
    for number in range(chunks):
        # The first chunk's first frame was seen before it was drawn.
        frames = controls.shape[1] - int(number == 0)
        message = pack({"compute_kv_cache": True, "obs": one.pictures(frames), "state": controls})
        seconds: dict[str, float] = {}

        def timed(stage: str, work: Callable[[], Any], into: dict[str, float] = seconds) -> Any:
            clock()
            result = work()
            into[stage] = 1000 * clock()
            return result

        request = timed("unpack", lambda message=message: unpack(message))
        pixels = timed("pictures", lambda request=request: on_device(request["obs"]))
        video = timed("autoencoder", lambda pixels=pixels: encoded(pixels))
        if number == 0:
            video = torch.cat([first, video], 2)

        def observe(request: Any = request, video: Tensor = video) -> None:
            action = session.executed(request["state"]).to(device)
            if rollout.chunks == 1:
                action[:, :, :1] = 0
            rollout.observe({"video": video, "action": action})

        timed("observe", observe)
        executed = rollout.executed
        drawn = timed("chunk", rollout.predict)
        controls = timed("actions", lambda drawn=drawn, executed=executed: _controls(session, drawn, executed))
        timed("pack", lambda controls=controls: pack({"action": controls, "server_timing": {}}))
        measured.append({**seconds, "sum": sum(seconds.values())})
    return measured, controls


def _controls(session: Any, drawn: dict[str, Tensor], executed: slice) -> np.ndarray:
    return session.actions(drawn["action"][:, :, executed].float().cpu())


def ages(chunks: Chunks, window: int) -> dict[str, dict[str, dict[str, float]]]:
    """Percentiles by stage of young chunks and of those under a full window."""
    full = window // 2 + 2
    parts = {"young": chunks[LEFT_OUT:full], "full": chunks[full:]}
    return {
        age: {"count": len(part), **({key: percentiles([c[key] for c in part]) for key in part[0]} if part else {})}
        for age, part in parts.items()
    }


def measure(
    size: str, rollout: str, encoder: str, precision: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One size with one way to compute a rollout, one to encode pictures, and one kind of numbers: what there is of it
    after every part, since the time on a GPU may end."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    forget_peak(device)
    progress(f"{size}, {rollout}, encoder {encoder}, {precision}")
    one = robot(size, rollout, encoder=encoder, precision=precision, device=device, dtype=dtype)
    # A model that begins at the picture has no window, and its chunks are alike.
    window = getattr(one.served.wam, "window_chunks", 0)
    chunks = window // 2 + 2 + arguments.rounds
    progress("warm-up")
    begun = time.perf_counter()
    warm_up(one.served)
    warm = time.perf_counter() - begun
    result = {
        "size": size,
        "rollout": rollout,
        "encoder": encoder,
        "precision": precision,
        "window": window,
        "dtype": arguments.dtype,
        "warm_up_seconds": warm,
        "wire": ages([], window),
        "early": ages([], window),
        "stages": ages([], window),
    }
    progress("through a server")
    wire, reset, _ = over_the_wire(one, chunks)
    yield (result := {**result, "reset_ms": reset, "wire": ages(wire, window), "peak_bytes": peak_bytes(device)})
    # Each time the session goes, so that the next one takes over what it has recorded.
    gc.collect()
    progress("pictures sent early")
    early, _, _ = over_the_wire(one, chunks, early=True)
    yield (result := {**result, "early": ages(early, window), "peak_bytes": peak_bytes(device)})
    gc.collect()
    progress("by stage")
    stages, _ = by_stage(one, chunks)
    yield {**result, "stages": ages(stages, window), "peak_bytes": peak_bytes(device)}


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "From pictures to controls, milliseconds as p50 / p95 / p99. In it: the message with the pictures as they are, "
        "the autoencoder, what was seen and done into the model's past, the model's chunk, the action "
        "codec, the reply. Not in it: cameras, network, embedding a new prompt. Client and server share one process.",
    ]
    for result in results:
        ages_of = result["stages"]
        young, full = (result["wire"][age] for age in ("young", "full"))
        numbers = result["dtype"] if result["precision"] == "own" else f"{result['dtype']} with {result['precision']}"
        lines += [
            "",
            f"### {result['size']}, {numbers}, rollout {result['rollout']}, encoder {result['encoder']}",
            "",
            f"Warm-up {result['warm_up_seconds']:.1f} s, a reset {result['reset_ms']:.1f} ms; the device's memory: "
            + (NOT_MEASURED if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**30:.2f} GiB"),
            "",
            f"| | young ({young['count']} chunks) | {'full window' if result['window'] else 'later'} "
            f"({full['count']} chunks) | what |",
            "|---|---:|---:|---|",
        ]
        told = {
            "both": "the robot's wait: refresh, then infer",
            "refresh": "",
            "infer": "",
            "messages and wire": "of both",
        }
        lines += [_line(f"client: {key}", result["wire"], key, what) for key, what in told.items()]
        told["both"] = "the same, all pictures but the last having been sent as they were seen"
        lines += [_line(f"client, early: {key}", result["early"], key, what) for key, what in told.items()]
        lines += [_line(key, ages_of, key, what) for key, what in (*STAGES.items(), ("sum", "of the stages"))]
    return "\n".join(lines) + "\n"


def _line(name: str, by_age: dict[str, Any], key: str, what: str) -> str:
    numbers = (by_age[age].get(key) for age in ("young", "full"))
    cells = (NOT_MEASURED if p is None else " / ".join(f"{value:.1f}" for value in p.values()) for p in numbers)
    return f"| {name} | {' | '.join(cells)} | {what} |"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, *JOINT_SIZES], default=["tiny"])
    parser.add_argument(
        "--rollout", nargs="+", default=["dynamic"], choices=["dynamic", "static", "compiled", "graphed"]
    )
    parser.add_argument(
        "--encoder", nargs="+", default=["plain"], choices=ENCODERS, help="ways to encode pictures, one after another"
    )
    parser.add_argument("--precision", nargs="+", default=["own"], choices=PRECISIONS, help="of the linear layers")
    parser.add_argument("--rounds", type=int, default=20, help="chunks under a full window")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("analysis/results/serving"))
    arguments = parser.parse_args()
    run = about(__file__, arguments, device=arguments.device)
    results: list[dict[str, Any]] = []
    for size in arguments.sizes:
        for rollout, encoder, precision in product(arguments.rollout, arguments.encoder, arguments.precision):
            before = list(results)
            for so_far in measure(size, rollout, encoder, precision, arguments):
                results = [*before, so_far]
                keep(arguments.out, torch.device(arguments.device).type, run, {"results": results}, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
