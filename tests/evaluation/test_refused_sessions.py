# SPDX-License-Identifier: Apache-2.0
"""Several processes drive episodes through a server that has no session left for them."""

import threading
from pathlib import Path

import pytest

pytest.importorskip("websockets")
from websockets.sync.server import serve

from flashwam.evaluation.libero_episodes import Place, drive_episodes
from flashwam.sim.libero import LiberoTask, get_convention


@pytest.fixture
def full():
    """URL of a server all of whose sessions are taken."""
    with serve(lambda session: session.close(1013, "all 1 sessions are taken"), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_server_s_refusal_is_told(full, tmp_path, processes):
    task = LiberoTask(suite="libero_10", index=0, name="t", bddl_file=Path("x"), states_file=Path("y"))
    convention = get_convention("lingbot_va")
    place = Place(url=full, token=None, convention=convention, seed=0, path=tmp_path / "result.json")
    with pytest.raises(RuntimeError, match="all 1 sessions are taken"):
        list(drive_episodes(place, [(task, 0), (task, 1)], processes=processes))
