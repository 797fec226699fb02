# SPDX-License-Identifier: Apache-2.0
"""The original server's closed loop, redone call by call through a rollout session."""

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va import LingBotSession, LingBotVA

Golden = dict[str, Any]


def levels(steps: int, shift: float) -> list[float]:
    """Shifted sampling levels, then 0."""
    s = torch.linspace(1, 0, steps + 1)[:-1]
    return [*(shift * s / (1 + (shift - 1) * s)).tolist(), 0.0]


def at(level: float, frames: int, *, first_is_given: bool) -> Tensor:
    sigma = torch.full((1, frames), level)
    if first_is_given:
        sigma[:, 0] = 0.0
    return sigma


class Server:
    """The sampling loop of the original server, on top of a session."""

    def __init__(self, golden: Golden, session: LingBotSession) -> None:
        self.golden = golden
        self.session = session
        self.job = {k.rpartition("/")[2]: v for k, v in golden.items() if k.startswith("server_concat/job_config/")}
        self.used = torch.zeros(1, 30, 1, 1, 1)
        self.used[:, self.job["used_action_channel_ids"]] = 1.0
        self.first_latent = golden["server_concat/steps/0/encoded/0"]

    def check(self, call: str, stream: str, velocity: Tensor) -> None:
        expected = self.golden[f"{call}/out"]
        if stream == "video":
            x = velocity.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
            velocity = x.permute(0, 2, 3, 5, 4, 6, 1).flatten(1, 5)
        else:
            velocity = velocity.flatten(2).transpose(1, 2)
        assert_close(velocity, expected, atol=1e-4, rtol=1e-4)

    def infer(self, step: str) -> tuple[Tensor, Tensor]:
        """Draw one chunk; every velocity is compared with the original's."""
        torch.manual_seed(self.golden[f"{step}/seed"])
        frames, first = self.job["frame_chunk_size"], self.session.frame_index == 0
        latents = torch.randn_like(self.golden[f"{step}/latents"])
        actions = torch.randn(1, 30, frames, self.job["action_per_frame"], 1)
        call = 0
        sigmas = levels(self.job["num_inference_steps"], self.job["snr_shift"])
        executed = self.job["video_exec_step"]
        for i in range(executed):
            if first:
                latents[:, :, :1] = self.first_latent
            sigma = at(sigmas[i], frames, first_is_given=first)
            velocity = self.session.velocity({"video": latents}, {"video": sigma})["video"]
            self.check(f"{step}/transformer_calls/{call}", "video", velocity)
            call += 1
            if i == executed - 1:
                self.session.append("video", latents, predicted=True, sigma=sigma)
            latents = latents + velocity * (sigmas[i + 1] - sigmas[i])
        if first:
            latents[:, :, :1] = self.first_latent

        sigmas = levels(self.job["action_num_inference_steps"], self.job["action_snr_shift"])
        for i, level in enumerate(sigmas):
            if first:
                actions[:, :, :1] = 0.0
            actions = actions * self.used
            sigma = at(level, frames, first_is_given=first)
            velocity = self.session.velocity({"action": actions}, {"action": sigma})["action"]
            self.check(f"{step}/transformer_calls/{call}", "action", velocity)
            call += 1
            if i == len(sigmas) - 1:
                self.session.append("action", actions, predicted=True)
            else:
                actions = actions + velocity * (sigmas[i + 1] - level)
        return latents, actions * self.used

    def observe(self, step: str, actions: Tensor) -> None:
        """Refresh the cache with what was seen and done; the first observation opens the first chunk."""
        self.session.drop_predicted()
        seen = self.golden[f"{step}/kv_encoded/0"]
        if self.session.frame_index == 0:
            seen = torch.cat([self.first_latent, seen], dim=2)
        clean = {"video": seen, "action": actions}
        for call, (stream, x) in enumerate(clean.items()):
            velocity = self.session.velocity({stream: x}, {stream: torch.zeros(1, x.shape[2])})[stream]
            self.check(f"{step}/kv_transformer_calls/{call}", stream, velocity)
            self.session.append(stream, x, predicted=False)
        self.session.advance(seen.shape[2])
        assert self.session.frame_index == self.golden[f"{step}/frame_st_id_after"]


def test_three_chunks_in_closed_loop(golden: Golden, golden_wam: LingBotVA) -> None:
    reach = golden["server_concat/job_config/attn_window"] - 1
    session = golden_wam.session(golden["server_prompt/prompt_embeds"], window_chunks=reach, eviction="permanent")
    server = Server(golden, session)
    low, high = (
        torch.tensor(golden[f"server_concat/job_config/norm_stat/{q}"])[:7, None, None] for q in ("q01", "q99")
    )
    for i in range(3):
        step = f"server_concat/steps/{i}"
        latents, actions = server.infer(step)
        assert_close(latents, golden[f"{step}/latents"], atol=1e-4, rtol=1e-4)
        physical = (actions[0, :7, ..., 0] + 1) / 2 * (high - low + 1e-6) + low
        assert_close(physical, golden[f"{step}/action"], atol=1e-4, rtol=1e-4)
        server.observe(step, actions)
