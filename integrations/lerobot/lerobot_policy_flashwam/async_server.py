# SPDX-License-Identifier: Apache-2.0
"""``python -m lerobot_policy_flashwam.async_server``: LeRobot's policy server, which takes this policy too.

LeRobot's own command for it imports no plugins and takes the policy types of a list alone.
"""

__all__ = ["allow", "main"]


def allow() -> None:
    """Adds the type flashwam to those that LeRobot's policy server takes, in this process.

    Raises:
        ImportError: LeRobot's asynchronous inference is not installed.
    """
    from lerobot.async_inference import constants

    from .configuration_flashwam import FlashwamConfig

    name = FlashwamConfig.get_choice_name(FlashwamConfig)
    if name not in constants.SUPPORTED_POLICIES:
        constants.SUPPORTED_POLICIES.append(name)


def main() -> None:
    """Runs LeRobot's policy server, with its own options.

    Raises:
        ImportError: gRPC is not installed.
    """
    try:
        from lerobot.async_inference.policy_server import serve
    except ImportError as error:
        raise ImportError(f"asynchronous inference needs gRPC: pip install 'lerobot[async]' ({error})") from error
    allow()
    serve()


if __name__ == "__main__":
    main()
