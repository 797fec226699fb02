# SPDX-License-Identifier: Apache-2.0
"""A model on disk, loaded: by itself, and with everything it needs to act."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashwam.core.sampler_name import measured_suffix, sampler_name, sampler_options
from flashwam.core.steps import nfe_text, parse_nfe
from flashwam.core.streams import StreamSpec
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import CODEC_FILE, Codec
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.fingerprint import autoencoder_fingerprint, tensors_fingerprint, values_fingerprint
from flashwam.recipe.layers import read_yaml
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.run.model_info import ModelInfo, model_folder
from flashwam.run.model_note import model_note
from flashwam.sampling import StreamSampler, samplers_for
from flashwam.sim.simulators import refuse_other_robots
from flashwam.student import load_wam
from flashwam.system.errors import InputError
from flashwam.system.hub import hub_name
from flashwam.system.imports import trusting
from flashwam.system.paths import ASSETS
from flashwam.wam.base import WorldActionModel
from flashwam.wam.codec import autoencoder_folder
from flashwam.wam.devices import device_named
from flashwam.wam.dtypes import dtype_named
from flashwam.wam.files import files_of_codec
from flashwam.wam.wam_file import WAM_FILE

__all__ = ["LoadedModel", "Policy", "described", "evaluations_of", "load_model", "load_policy", "said_beside_weights"]


def evaluations_of(folder: Path) -> Path:
    """Folder of what is measured of a model: in its run; in runs/shipped/<folder> for one that the package brings, and
    in runs/hub/<owner>/<name> for one that was fetched.

    Args:
        folder: The model's.
    """
    if (named := hub_name(folder)) is not None:
        return RunFolder(Path("runs") / "hub" / named).evaluations
    place = folder.resolve()
    shipped = place.is_relative_to(ASSETS)
    return (RunFolder(Path("runs") / "shipped" / place.name) if shipped else RunFolder.of_model(folder)).evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A loaded model.

    Args:
        folder: Where it came from.
        wam: The model, in evaluation mode.
        info: What its `flashwam.json` says.
        preset: See `load_wam`.
    """

    folder: Path
    wam: WorldActionModel
    info: ModelInfo
    preset: str | None = None

    @property
    def run(self) -> RunFolder:
        """The run it belongs to."""
        return RunFolder.of_model(self.folder)

    @property
    def evaluations(self) -> Path:
        """Folder of what is measured of it, see `evaluations_of`."""
        return evaluations_of(self.folder)

    @property
    def real_time(self) -> Path:
        """Folder of what is measured of it in worlds that do not wait."""
        return RunFolder(self.evaluations.parent).real_time

    def note(self, beside: str | Path) -> dict[str, Any]:
        """The note of its weights for a file in the folder `beside`, see `flashwam.run.model_note`."""
        return model_note(self.evaluations.parent, self.info.steps, beside=beside)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.info.name or self.run.name

    @property
    def fingerprint(self) -> str:
        """Tells its weights from others; to be asked before they are rounded, see
        `flashwam.data.fingerprint.tensors_fingerprint` for what it can miss."""
        return tensors_fingerprint(self.wam.state_dict())

    def said(self, samplers: Mapping[str, StreamSampler]) -> dict[str, str]:
        """See `said_beside_weights`."""
        return said_beside_weights(self.folder, self.wam, samplers, preset=self.preset)

    @property
    def specs(self) -> Mapping[str, StreamSpec]:
        """Its streams."""
        return self.info.streams

    def settings(self, nfe: Sequence[str] | None) -> tuple[str, ...]:
        """Steps to measure it at: those that are given, or its recipe's, or those that it is deployed with.

        Raises:
            ValueError: They are none.
        """
        if nfe:
            # Whoever writes a setting otherwise means the same, which is measured once.
            read = (parse_nfe(text, tuple(self.wam.streams)) for text in nfe)
            return tuple(dict.fromkeys("full" if steps is None else nfe_text(steps) for steps in read))
        if (recipe := self.info.recipe) is not None:
            return self._taken_on(recipe.name) or recipe.evaluate.nfe
        own = {name: spec.steps for name, spec in self.specs.items()}
        return ("full",) if self.info.kind == "teacher" else (nfe_text(own),)

    def evaluation_seed(self, given: int | None) -> int:
        """Seed of the scenes and the noise to measure it in: the one that is given, or its recipe's, or 0."""
        if given is not None:
            return given
        return 0 if self.info.recipe is None else self.info.recipe.evaluate.seed

    def _taken_on(self, name: str) -> tuple[str, ...]:
        """The steps that its run's recipe names, which a finished run may have taken on, see `prepare_run`; none where
        it is in no run of its own recipe's name."""
        path = self.run.recipe
        told = read_yaml(path.read_bytes(), str(path)) if path.is_file() else {}
        evaluated = told.get("evaluate") if told.get("name") == name else None
        return tuple(map(str, evaluated.get("nfe") or ())) if isinstance(evaluated, dict) else ()

    def told_sampler(self, sampler: str) -> str:
        """A sampler's name without temperatures that its streams begin with anyway."""
        options = sampler_options(sampler)
        own = {name: each.temperature for name, each in self.samplers("full").items()}
        asked = options["temperature"]
        if isinstance(asked, Mapping):
            asked = {name: value for name, value in asked.items() if own.get(name) != value} or None
        elif set(own.values()) == {asked}:
            asked = None
        return sampler_name(
            plain_euler=options["plain_euler"], unit_amplitude=options["unit_amplitude"], temperature=asked
        )

    def how(self, sampler: str) -> str:
        """The part of an evaluation's name that tells it from others of the same steps: "own", "euler_fp8"."""
        return sampler if self.wam.precision == "own" else f"{sampler}_{self.wam.precision}"

    def suffix(self, sampler: str) -> str:
        """`how`, as it stands at the end of a label: "", " euler", " t0.5", " fp8"."""
        return measured_suffix(sampler, self.wam.precision)

    def round_as_told(self) -> None:
        """Brings it to the precision that its recipe names, as an evaluation does; one that was rounded stays so."""
        if self.wam.precision == "own":
            self.wam.choose_precision(self.info.precision)

    def samplers(self, nfe: str, *, sampler: str = "own") -> dict[str, StreamSampler]:
        """Samplers for steps such as "1v/2a"; `sampler` is that of `flashwam.run.evaluation.Evaluation`."""
        steps = parse_nfe(nfe, tuple(self.wam.streams))
        teacher = self.info.kind == "teacher"
        return samplers_for(self.specs, steps=steps, teacher=teacher, **sampler_options(sampler))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(LoadedModel):
    """A loaded model with everything it needs to act.

    Args:
        codec: Its codecs: a `Codec`, or what a family has in its place, see `FamilyFiles.frame_codec`.
    """

    codec: Codec

    def said(self, samplers: Mapping[str, StreamSampler]) -> dict[str, str]:
        """See `LoadedModel.said`."""
        told: dict[str, Any] = {"actions": self.codec.actions.to_dict()}
        if (cameras := getattr(self.codec, "cameras", None)) is not None:
            told["cameras"] = asdict(cameras)
        return {**LoadedModel.said(self, samplers), CODEC_FILE: values_fingerprint(told)}

    def request(
        self, tasks: Sequence[str] | None, episodes: int | None, *, driven: bool = True
    ) -> tuple[tuple[str, ...], int]:
        """Tasks to drive it on and episodes of each: those that are given, or else its recipe's.

        Args:
            tasks, episodes: What is given.
            driven: False where nothing is driven, and a task may be one that no simulator has.

        Raises:
            ValueError: None are given, and it names none; or one is unknown, or of another robot.
        """
        chosen = tuple(tasks or self.info.tasks)
        if not chosen:
            raise InputError(f"{self.folder} names no tasks; give --tasks, such as reach-wall")
        if driven:
            controls = len(self.codec.actions.used)
            refuse_other_robots(chosen, controls=controls, model=self.name, own=self.info.tasks)
        return chosen, episodes or self.info.episodes or 50

    @property
    def autoencoder(self) -> FrameAutoencoder | None:
        """The one that encodes single pictures; None where its codec has another kind."""
        return self.codec.autoencoder if isinstance(self.codec, Codec) else None

    def held_out(self) -> EpisodeDataset:
        """Windows of episodes that were held out of the data that its recipe names, always in the same order.

        Latents are its own autoencoder's, whoever encoded the data last.

        Raises:
            ValueError: It has no recipe.
            FileNotFoundError: The data are not here.
        """
        recipe = self.info.recipe
        if recipe is None:
            raise InputError(f"{self.folder} does not say where its data lie")
        return EpisodeDataset(
            recipe.data.root,
            window_frames=recipe.data.window_frames,
            tasks=recipe.data.tasks,
            split="val",
            val_every=recipe.data.held_out_every,
            norm=self.codec.actions,
            balance=True,
            seed=1,
            senses=tuple(self.wam.senses),
            autoencoder=self.autoencoder,
        )


def said_beside_weights(
    folder: Path, wam: WorldActionModel, samplers: Mapping[str, StreamSampler], *, preset: str | None
) -> dict[str, str]:
    """Fingerprints what decides a model's draws, and its pictures, beside its weights.

    Args:
        folder: The model's.
        wam: The model.
        samplers: How it is drawn.
        preset: What says all of it in the place of files, if not None.

    Returns:
        File or folder, as it is named in the model's -> a fingerprint.
    """
    found = {}
    if preset is None:
        found[INFO_FILE] = values_fingerprint({name: sampler.settings for name, sampler in samplers.items()})
        found[WAM_FILE] = values_fingerprint(dict(wam.decided_by))
    if (vae := autoencoder_folder(folder)) is not None:
        found["vae/"] = autoencoder_fingerprint(vae)
    return found


def load_model(
    folder: str | Path,
    *,
    preset: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    trust: bool = False,
) -> LoadedModel:
    """Loads a model's folder, or the result of a run's, without what it would act with.

    Args:
        folder: The model's or the run's; with a preset, another tool's checkpoint that its family knows.
        preset: See `load_wam`.
        device: Where it runs.
        dtype: "bfloat16" or "float32"; that of the model's files if None.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError, ValueError: There is none, it cannot be loaded, or there is no such device.
    """
    place = device_named(device)
    folder = model_folder(folder)
    other = {} if dtype is None else {"dtype": dtype_named(dtype)}
    wam, info = load_wam(folder, preset=preset, trust=trust, **other)
    return LoadedModel(folder=folder, wam=wam.to(place).eval(), info=info, preset=preset)


def load_policy(folder: str | Path, *, trust: bool = False) -> Policy:
    """Loads a model's folder, or the result of a run's.

    Args:
        folder: The model's or the run's.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its pictures cannot be encoded one by one.
    """
    model = load_model(folder, trust=trust)
    with trusting(trust):
        files = files_of_codec(model.folder)
    dtype = next(model.wam.parameters()).dtype
    codec = Codec.load(model.folder) if files is None else files.frame_codec(model.folder, dtype=dtype, device="cpu")
    return Policy(folder=model.folder, wam=model.wam, info=model.info, codec=codec)


def described(policy: LoadedModel, samplers: Mapping[str, StreamSampler]) -> dict[str, Any]:
    """Describes a model for an evaluation's record."""
    return {
        "kind": policy.info.role,
        "precision": policy.wam.precision,
        "step": policy.info.steps,
        "nfe": {name: sampler.steps for name, sampler in samplers.items()},
        "stages": tuple(tuple(stage) for stage in policy.wam.stages),
        "training_seed": policy.info.seed,
        "family": policy.info.family,
        "guidance": {name: s.guidance_scale for name, s in samplers.items() if s.guidance_scale != 1},
    }
