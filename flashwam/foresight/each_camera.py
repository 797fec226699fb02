# SPDX-License-Identifier: Apache-2.0
"""A vision model that sees the pictures of several cameras one by one, and not as one picture.

Letters: m pictures, H, W their size in pixels, T channels, h and w of a grid.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from flashwam.data.layouts import arrange, check_cameras, separate
from flashwam.distillation.setup import Setup
from flashwam.foresight.providers import TargetProvider, find_provider, load_provider, to_grid
from flashwam.system.errors import InputError

__all__ = ["EachCamera", "build_providers"]


class EachCamera(TargetProvider):
    """Cuts the canvas of all cameras apart, shows each to a vision model, and puts the features where the camera was.

    Args:
        inner: The vision model.
        layout: "width" or "tshape", see `flashwam.data.layouts.arrange`.
        cameras: How many.

    Raises:
        ValueError: the layout is unknown, or takes another number of cameras.
    """

    def __init__(self, inner: TargetProvider, *, layout: str, cameras: int) -> None:
        super().__init__()
        check_cameras(layout, cameras)
        self.inner, self.layout, self.cameras = inner, layout, cameras
        self.width = inner.width
        self.requires_grad_(False).eval()

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """See `TargetProvider.check`: its own and the inner one's."""
        if set(options) != {"provider", "layout", "cameras"} or not isinstance(options["provider"], Mapping):
            raise InputError(f"an each_camera provider takes provider (a mapping), layout and cameras; got {options}")
        inner = dict(options["provider"])
        find_provider(str(inner.pop("name", None))).check(inner)

    @classmethod
    def build(cls, options: Mapping[str, Any], *, root: Path, seed: int) -> Self:
        """Options: `provider`, the inner one's name and options; layout; cameras."""
        given = dict(options["provider"])
        inner = find_provider(str(given.pop("name", None))).build(given, root=root, seed=seed)
        return cls(inner, layout=options["layout"], cameras=options["cameras"])

    def describe(self) -> str:
        """See `TargetProvider.describe`."""
        return f"{self.inner.describe()}, each of {self.cameras} cameras by itself"

    def look(self, pictures: Tensor) -> Tensor:
        """See `TargetProvider.look`; a camera of half the size has half the rows and columns of the grid.

        Raises:
            ValueError: the pictures cannot be cut into cameras of that layout.
        """
        seen = [self.inner.look(view) for view in self._views(pictures)]
        if self.layout == "tshape":
            # The head's grid counts; the wrists' are brought to half of it.
            rows, columns = (side - side % 2 for side in seen[0].shape[2:])
            sizes = [(rows, columns), (rows // 2, columns // 2), (rows // 2, columns // 2)]
            seen = [to_grid(x[:, :, None], size)[:, :, 0] for x, size in zip(seen, sizes, strict=True)]
        return arrange(self.layout, [x.transpose(0, 1) for x in seen]).transpose(0, 1)

    def _views(self, pictures: Tensor) -> list[Tensor]:
        """[m, H, W, 3] -> that of every camera, in the layout's order."""
        views = separate(self.layout, pictures.movedim(-1, 1), cameras=self.cameras)
        return [view.movedim(1, -1) for view in views]

    def settings(self) -> dict[str, Any]:
        """See `TargetProvider.settings`."""
        return {"layout": self.layout, "cameras": self.cameras, "inner": self.inner.settings()}

    def save_weights(self, folder: Path) -> None:
        """See `TargetProvider.save_weights`."""
        self.inner.save(folder / "inner")

    @classmethod
    def from_folder(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """See `TargetProvider.from_folder`."""
        return cls(load_provider(folder / "inner"), layout=settings["layout"], cameras=settings["cameras"])


def build_providers(chosen: Mapping[str, Mapping[str, Any]], setup: Setup) -> dict[str, TargetProvider]:
    """Builds the vision models that a recipe asks for, by name; they see the pictures of several cameras one by one."""
    where: dict[str, Any] = {"root": setup.data, "seed": setup.seed}
    made: dict[str, TargetProvider] = {}
    for name, given in chosen.items():
        if setup.cameras > 1:
            about = {"provider": given, "layout": setup.layout, "cameras": setup.cameras}
            made[name] = EachCamera.build(about, **where)
        else:
            own = {key: value for key, value in given.items() if key != "name"}
            made[name] = find_provider(str(given.get("name"))).build(own, **where)
    return made
