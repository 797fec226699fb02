# SPDX-License-Identifier: Apache-2.0
"""An address that cannot be is named to whoever gave it, client or server."""

import re

import pytest

from flashwam.cli import main
from flashwam.serve.client import PolicyClient
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import serving


@pytest.mark.parametrize(
    "url",
    ["ws://127.0.0.1:99999", "ws://127.0.0.1:abc", "ws://[::1", "ws://a..b:1", "http://127.0.0.1", "127.0.0.1:29536"],
)
def test_a_servers_address_that_is_none_is_named(url, capsys):
    with pytest.raises(ValueError, match=f"reads like ws://127.0.0.1:29536; got {re.escape(repr(url))}"):
        PolicyClient(url)
    assert main(["evaluate", "--server", url]) == 2
    assert capsys.readouterr().err.startswith("error: a server's address reads like")


def test_a_server_that_is_not_there_is_no_wrong_address():
    with pytest.raises(ConnectionError, match=r"no policy server answers at ws://127\.0\.0\.1:1 "):
        PolicyClient("ws://127.0.0.1:1")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "http://127.0.0.1"])
def test_a_host_that_is_none_is_named_with_its_port(host, model, tmp_path, capsys):
    told = f"got {host!r}, with port 29054"
    with pytest.raises(ValueError, match=told), serving(model, ServerOptions(host=host, port=29054)):
        pass
    # Said before the model is looked for, which is not there.
    assert main(["serve", str(tmp_path / "nowhere"), "--host", host, "--port", "29054"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "0.0.0.0"])
def test_a_host_of_this_machine_passes(host):
    ServerOptions(host=host).check_host()
