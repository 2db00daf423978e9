"""Update checks: frozen tensors in optimizers and averages, and learning rates that SB3 overwrites."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from stillsight.agents.diagnosis.case import Case
from stillsight.agents.diagnosis.finding import ENCODE_ONCE, Finding
from stillsight.agents.features.encoder_rate import optimizers


def rates_overwritten(policy: BasePolicy) -> Iterator[Finding]:
    """Report parameter groups with learning rates of their own, which SB3 sets to one."""
    for path, optimizer in optimizers(policy).items():
        groups = optimizer.param_groups
        rates = {group["lr"] for group in groups} | {group["initial_lr"] for group in groups if "initial_lr" in group}
        listed = ", ".join(f"{rate:g}" for rate in sorted(rates))
        factors = [f"{group['lr_factor']:g}" for group in groups if "lr_factor" in group]
        if factors:
            yield Finding(
                "learning-rate-factor",
                "note",
                f"policy.{path}",
                f"A group carries an lr_factor ({', '.join(factors)}), which stillsight applies around each step.",
                "Nothing to do.",
            )
        elif len(rates) > 1:
            yield Finding(
                "learning-rate-overwritten",
                "wrong",
                f"policy.{path}",
                f"{len(groups)} parameter groups with the rates {listed}: SB3 sets all of them to the one rate of its "
                "schedule whenever train() begins.",
                "Scale the rate of a group around each step, with optimizer.register_step_pre_hook, or keep one rate.",
            )


def frozen_but_optimised(case: Case) -> Iterator[Finding]:
    """Report tensors without gradients that an optimizer holds."""
    held = {id(p) for o in optimizers(case.policy).values() for group in o.param_groups for p in group["params"]}
    parameters = [parameter for network in case.networks for parameter in network.module.parameters()]
    idle = [p for p in parameters if id(p) in held and not p.requires_grad]
    if idle:
        yield Finding(
            "frozen-but-optimised",
            "note",
            case.where,
            f"The optimizer holds {len(idle)} tensors that require no gradient. It skips them: untidy, and harmless.",
            ENCODE_ONCE,
        )


def averaged(case: Case) -> Iterator[Finding]:
    """Report frozen tensors that polyak averages, and tensors shared with a target, which it averages with themselves.

    SB3's `polyak_update` first scales the target in place and then adds the online tensor, which is the scaled one if
    the two are one tensor; the running statistics of BatchNorm it updates with tau = 1.
    """
    tau = getattr(case.model, "tau", None)
    for name, target in case.policy.named_children():
        online = getattr(case.policy, name.removesuffix("_target"), None)
        if tau is None or not name.endswith("_target") or not isinstance(online, nn.Module):
            continue
        own = {id(parameter) for network in case.networks for parameter in network.module.parameters()}
        pairs = list(zip(online.parameters(), target.parameters(), strict=True))
        shared = sum(p is q for p, q in pairs)
        statistics = {id(b) for key, b in online.named_buffers() if "running_" in key}
        zeroed = sum(id(buffer) in statistics for buffer in target.buffers())
        if shared:
            yield Finding(
                "polyak-with-itself",
                "wrong",
                f"policy.{name}",
                f"The network and its target share {shared} tensors, and SB3 averages in place: each target update "
                f"multiplies them by 1 - tau^2 = {1 - tau**2:.6g}, and sets {zeroed} shared BatchNorm statistics to 0.",
                "Give each extractor a copy, or hide the shared backbone from the policy: self._net = (net,).",
            )
        frozen = [(p, q) for p, q in pairs if id(p) in own and p is not q and (case.frozen or not p.requires_grad)]
        if frozen:
            effect = "copies" if tau == 1 else "averages, and so rounds,"
            apart = sum(not torch.equal(p, q) for p, q in frozen)
            yield Finding(
                "polyak",
                "cost",
                f"policy.{name}",
                f"Every target update {effect} {len(frozen)} tensors that do not learn; {apart} of them differ from "
                "the online ones now.",
                ENCODE_ONCE,
            )
