# SPDX-License-Identifier: Apache-2.0
"""Teacher frozen, target an exact moving average."""

import pytest
import torch

from flashwam.distillation.roles import Roles, relative_distance


def test_moving_average_follows_its_formula(wam):
    roles = Roles(wam, target=True)
    start = [p.clone() for p in wam.parameters()]
    with torch.no_grad():
        for p in wam.parameters():
            p.add_(1.0)
    roles.update_target(0.9)
    roles.update_target(0.9)
    # After k updates towards a constant: target = student - decay^k (student - start).
    for p, s in zip(roles.target.parameters(), start, strict=True):
        torch.testing.assert_close(p, s + 1 - 0.9**2, rtol=0, atol=1e-6)


def test_moving_average_keeps_its_digits_where_the_student_is_rounded(wam):
    """As DeepSpeed rounds the model that it trains: whole, or in part."""
    for rounded in (wam.shared, wam):
        roles = Roles(wam, target=True)
        before = {name: p.clone() for name, p in roles.target.named_parameters()}
        rounded.to(torch.bfloat16)
        roles.update_target(0.999)
        for name, p in roles.target.named_parameters():
            source = wam.get_parameter(name).float()
            assert p.dtype == before[name].dtype
            if p.dtype == torch.float32:
                torch.testing.assert_close(p, torch.lerp(before[name], source, 0.001), rtol=0, atol=1e-8)


def test_frozen_copies_take_no_gradient_and_share_no_memory(wam, teacher):
    roles = Roles(wam, teacher=teacher, target=True, reference=True)
    for frozen in (roles.teacher, roles.target, roles.reference):
        assert not any(p.requires_grad for p in frozen.parameters())
    with torch.no_grad():
        next(wam.parameters()).add_(1.0)
    assert relative_distance(wam, roles.reference) > 0
    assert relative_distance(roles.target, roles.reference) == 0


def test_distance_is_relative(wam):
    roles = Roles(wam, target=True)
    with torch.no_grad():
        for p in roles.target.parameters():
            p.mul_(1.5)
    assert relative_distance(roles.target, wam) == pytest.approx(0.5, rel=1e-5)


def test_one_copy_is_made_ready_before_the_next_is_moved(wam, teacher, monkeypatch):
    """A strategy that shares models among processes then never has several whole ones on a device."""
    roles, seen = Roles(wam, teacher=teacher, target=True, critic=True), []
    names = {id(roles.teacher): "teacher", id(roles.target): "target", id(roles.model): "student"}
    monkeypatch.setattr(torch.nn.Module, "to", lambda model, *_: seen.append("moved") or model)
    roles.place(
        lambda role, model: seen.append(role) or model,
        lambda model, *, follows_student: seen.append((names[id(model)], follows_student)),
    )
    assert seen == [("teacher", False), ("target", True), "student", "critic"]
    roles.place_whole("cpu")
    assert seen[4:] == ["moved"] * 4


def test_teacher_must_not_be_the_student(wam):
    with pytest.raises(ValueError, match="same object"):
        Roles(wam, teacher=wam)
