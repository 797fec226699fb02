# SPDX-License-Identifier: Apache-2.0
"""`flashwam serve`: a policy server."""

import argparse

from flashwam.commands.shared import (
    Command,
    add_precision,
    add_temperature,
    add_token,
    add_trust,
    path,
    positive,
    read_token,
    trust,
)

WORDS = """\
a teacher or student as a policy server
Speaks LingBot-VA's websocket and msgpack protocol, so that its clients work unchanged, or openpi's (--protocol openpi),
which brings no memory: every request begins an episode. Every connection is a session of its own. GET /healthz answers
OK; GET /metrics gives sessions and latency per stage as JSON. Ctrl-C ends it."""
EXAMPLES = (
    "  flashwam serve runs/flash_wam/student\n"
    "  flashwam serve runs/teacher/teacher --nfe 5v/10a --port 29056\n"
    "  flashwam serve runs/flash_wam/student --rollout graphed\n"
    "  flashwam serve runs/flash_wam/student --rollout graphed --precision fp8\n"
    "  flashwam serve runs/libero_pairs --protocol openpi \\\n"
    "      --camera observation.images.agentview_rgb=observation/image \\\n"
    "      --camera observation.images.eye_in_hand_rgb=observation/wrist_image\n"
    "  flashwam serve runs/flash_wam/student --host 0.0.0.0 --token-file token.txt\n"
    "  flashwam serve checkpoints/lingbot-va-posttrain-robotwin --preset robotwin\n"
    "  flashwam serve checkpoints/videovla --preset videovla --base checkpoints/CogVideoX-5b-I2V"
)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="MODEL", type=path, help="folder of a teacher or student, or a run")
    parser.add_argument("--nfe", metavar="1v/1a", help="steps per chunk, or full (default: the model's own)")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="for another tool's checkpoint, its family's settings: robotwin, libero, ...; an unknown name lists them",
    )
    parser.add_argument("--base", type=path, metavar="DIR", help="folder with vae/ and text_encoder/")
    parser.add_argument(
        "--rollout",
        metavar="NAME",
        help="how chunks are computed, where a family knows several ways: graphed, on a GPU (default: the model's own)",
    )
    parser.add_argument(
        "--encoder",
        choices=("plain", "compiled", "graphed"),
        help="how a video autoencoder encodes pictures (default: as --rollout where that is one of these, else plain)",
    )
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: cuda where there is one, or else cpu)")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="of the model and its autoencoder (default: that of its files)"
    )
    add_temperature(parser)
    add_precision(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=29536, help="default: 29536; 0 takes a free one")
    protocol_help = "lingbot_va, or openpi, whose every request begins an episode (default: lingbot_va)"
    parser.add_argument("--protocol", choices=("lingbot_va", "openpi"), default="lingbot_va", help=protocol_help)
    camera_help = "with openpi: the key of a camera's picture, where it is not the camera's name; may be given again"
    parser.add_argument("--camera", type=_camera, action="append", default=[], metavar="CAMERA=KEY", help=camera_help)
    add_token(parser)
    parser.add_argument("--max-sessions", type=positive, default=16, metavar="N", help="default: 16")
    parser.add_argument(
        "--max-message-mib", type=positive, default=128, metavar="N", help="longest message (default: 128)"
    )
    parser.add_argument(
        "--max-prompt-characters", type=positive, default=8192, metavar="N", help="longest prompt (default: 8192)"
    )
    parser.add_argument(
        "--idle-seconds", type=positive, default=600, metavar="N", help="ends silent sessions (default: 600)"
    )
    add_trust(parser)


def _camera(text: str) -> tuple[str, str]:
    camera, equals, key = text.partition("=")
    if not (camera and equals and key):
        raise argparse.ArgumentTypeError(f"expected CAMERA=KEY; got {text!r}")
    return camera, key


def _action(arguments: argparse.Namespace) -> None:
    import torch

    from flashwam.serve.model import load_served
    from flashwam.serve.options import ServerOptions
    from flashwam.serve.server import serve
    from flashwam.system.paths import keep_compiled

    keep_compiled()
    options = ServerOptions(
        host=arguments.host,
        port=arguments.port,
        token=read_token(arguments),
        max_message_bytes=arguments.max_message_mib * 2**20,
        max_prompt_characters=arguments.max_prompt_characters,
        idle_seconds=arguments.idle_seconds,
        max_sessions=arguments.max_sessions,
        protocol=arguments.protocol,
        cameras=dict(arguments.camera),
    )
    options.check_host()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_served(
        arguments.checkpoint,
        nfe=arguments.nfe,
        device=device,
        preset=arguments.preset,
        base=arguments.base,
        rollout=arguments.rollout,
        encoder=arguments.encoder,
        dtype=arguments.dtype,
        precision=arguments.precision,
        temperature=arguments.temperature,
        **trust(arguments),
    )
    serve(model, options)


COMMAND = Command(name="serve", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
