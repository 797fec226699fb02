# SPDX-License-Identifier: Apache-2.0
"""The way of a chunk's pictures from a client to a server in another process, in one frame and in pieces: milliseconds.

    python benchmarks/message_trip.py                RoboTwin's 24 pictures of a chunk, 5.9 MB
    python benchmarks/message_trip.py --pictures 3   those that are left where the others were sent as they were seen

A trip: packing, sending, receiving, unpacking, and a reply of one number. Each size of pieces has a client and a server
of its own, since what a process allocated before tells what it costs to allocate again; sizes take turns. There is no
network in it.
"""

import argparse
import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import about, keep
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from flashwam.recipe.load import load_recipe
from flashwam.serve.protocol import pack, unpack
from flashwam.serve.sending import PIECE, in_pieces

SIZES = (None, 2**17, 2**18, PIECE, 2**20, 2**21)
TURNS, LEFT_OUT = 3, 3
WIRE: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None}


async def _answer(connection: ServerConnection) -> None:
    try:
        while True:
            unpack(await connection.recv())
            await connection.send(pack(0))
    except ConnectionClosed:
        pass


async def _listen(port: Connection) -> None:
    async with serve(_answer, "127.0.0.1", 0, **WIRE) as server:
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()


def listen(port: Connection) -> None:
    """A server's process."""
    asyncio.run(_listen(port))


def _send(connection: ClientConnection, request: dict[str, Any], size: int | None) -> None:
    # As in a `PolicyClient`, what was packed is gone when the reply comes: to keep it spares the next one much.
    packed = pack(request)
    connection.send(packed if size is None else in_pieces(packed, size))


def drive(port: int, size: int | None, request: dict[str, Any], rounds: int, told: Connection) -> None:
    """A client's process: milliseconds of each trip but the first ones, in pieces of `size` or, if None, in one."""
    measured = []
    with connect(f"ws://127.0.0.1:{port}", proxy=None, **WIRE) as connection:
        for _ in range(LEFT_OUT + rounds):
            # A robot moves between two messages.
            time.sleep(0.05)
            begun = time.perf_counter()
            _send(connection, request, size)
            unpack(connection.recv())
            measured.append(1000 * (time.perf_counter() - begun))
    told.send(measured[LEFT_OUT:])


def trips(size: int | None, request: dict[str, Any], rounds: int) -> list[float]:
    """Milliseconds of each trip between two new processes."""
    context = multiprocessing.get_context("spawn")
    (here, port), (answers, told) = context.Pipe(), context.Pipe()
    server = context.Process(target=listen, args=(port,), daemon=True)
    server.start()
    client = context.Process(target=drive, args=(here.recv(), size, request, rounds, told), daemon=True)
    client.start()
    measured: list[float] = answers.recv()
    client.join()
    server.terminate()
    return measured


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=24, help="of all cameras together, a multiple of their number")
    parser.add_argument("--rounds", type=int, default=20, help=f"of each of {TURNS} turns")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    data = load_recipe("lingbot_va/robotwin/flash_wam").data
    rng = np.random.default_rng(0)
    moments = [
        {camera: rng.integers(0, 256, (*data.camera_size, 3), np.uint8) for camera in data.cameras}
        for _ in range(arguments.pictures // len(data.cameras))
    ]
    request = {"compute_kv_cache": True, "obs": moments}
    measured: dict[int | None, list[float]] = {size: [] for size in SIZES}
    for _ in range(TURNS):
        for size, told in measured.items():
            told += trips(size, request, arguments.rounds)
    megabytes = len(pack(request)) / 1e6
    whole = median(measured[None])
    lines = [f"A message of {megabytes:.1f} MB; median, p5 and p95.", ""]
    lines += ["| frames of | ms | one frame / it |", "|---|---:|---:|"]
    for size, told in measured.items():
        low, high = np.percentile(told, (5, 95))
        name = "the whole message" if size is None else f"{size // 1024:,} KiB"
        lines.append(f"| {name} | {median(told):.1f} ({low:.1f}, {high:.1f}) | {whole / median(told):.2f} |")
    table = "\n".join(lines) + "\n"
    named = {str(size or "whole"): told for size, told in measured.items()}
    keep(
        arguments.out, f"message_trip_{arguments.pictures}", about(__file__, arguments), {"milliseconds": named}, table
    )
    print(table)


if __name__ == "__main__":
    main()
