"""Policy checks: weights overwritten by initialisation, layers switched to train mode, pixels wrongly scaled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from stillsight.agents.diagnosis.case import Case
from stillsight.agents.diagnosis.finding import ENCODE_ONCE, Finding, Severity
from stillsight.agents.diagnosis.probe import initialised_layers
from stillsight.agents.diagnosis.reference_weights import count_orthogonal, differing, match


def weights_overwritten(case: Case) -> Iterator[Finding]:
    """Report overwritten weights: against references where there are some, else by the mark of `orthogonal_`."""
    layers = initialised_layers(case.first) if getattr(case.policy, "ortho_init", False) else []
    marked, measured = count_orthogonal(layers)
    overwritten = 0 < measured <= 2 * marked
    change = ""
    if case.references is not None:
        state = case.first.state
        matched = match(case.references, state, f"policy.{case.first.where}")
        kernels = {name: tensor for name, tensor in matched.items() if tensor.dim() > 1}
        changed = differing(kernels, state)
        change = f"{len(changed)} of {len(kernels)} weight tensors are not those that were given. "
        if changed and not overwritten and (case.frozen or not case.model.num_timesteps):
            yield Finding(
                "weights-differ",
                "wrong",
                case.where,
                f"{change}The first is {changed[0]}.",
                "Load the weights in the features extractor's constructor, or look for what writes to them.",
            )
        if not changed:
            overwritten = False
    if not case.presumed_pretrained or not layers:
        return
    if overwritten:
        yield Finding(
            "orthogonal-init",
            "wrong" if case.frozen or change else "risk",
            case.where,
            f"{change}{marked} of {measured} convolutions and linear layers hold orthogonal weights: the policy "
            "initialised them when it was built (ortho_init=True), whatever had been loaded before and whether or not "
            "they require gradients.",
            f"{ENCODE_ONCE} ortho_init=False spares them too, and takes the small first action layer away.",
        )
    else:
        yield Finding(
            "orthogonal-init",
            "note",
            case.where,
            f"{change}ortho_init=True reaches {len(layers)} convolutions and linear layers here, of which {marked} are "
            "orthogonal now: the weights were loaded after the policy was built, or training has moved them. The next "
            f"policy of this kind is initialised again, also in {type(case.model).__name__}.load(), before the saved "
            "weights are restored.",
            ENCODE_ONCE if change else "Compare with the weights: diagnose(model, weights=STATE_DICT_OR_FILE).",
        )


def layers_in_train_mode(case: Case) -> Iterator[Finding]:
    """Report BatchNorm and dropout that an update switches to train mode. Only layers that take part count."""
    switched = case.in_train_mode
    ran = case.forward.ran if case.forward else switched
    modules = [module for module in case.first.module.modules() if module in switched and module in ran]
    norms = [module for module in modules if isinstance(module, _BatchNorm) and module.track_running_stats]
    severity: Severity = "wrong" if case.frozen else "risk"
    remedy = "Override train(self, mode) in the features extractor so that the backbone stays in eval mode"
    if norms:
        moved = ""
        if case.references is not None:
            state = case.first.state
            matched = match(case.references, state, f"policy.{case.first.where}")
            statistics = {name: value for name, value in matched.items() if ".running_" in f".{name}"}
            moved = f" {len(differing(statistics, state))} of {len(statistics)} statistics have moved already."
        yield Finding(
            "batchnorm-not-pinned",
            severity,
            case.where,
            f"{len(norms)} BatchNorm layers go to train mode when an update begins (set_training_mode(True) overrides "
            f"an eval() in the constructor): they use the statistics of the batch and move their own.{moved}",
            f"{remedy}. Or: {ENCODE_ONCE}" if case.frozen else f"{remedy}: then rollout and update see the same.",
        )
    drops = [module for module in modules if _drops(module)]
    if drops:
        kinds = Counter(type(module).__name__ for module in drops)
        names = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        yield Finding(
            "dropout-not-pinned",
            severity,
            case.where,
            f"Layers that drop at random ({names}) go to train mode when an update begins: rollout and "
            "update then see different features of the same frame.",
            f"{remedy}.",
        )


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0)
    known = isinstance(module, _DropoutNd) or type(module).__name__ in ("DropPath", "StochasticDepth")
    return known and bool(getattr(module, "drop_prob", 0.0) or getattr(module, "p", 0.0))


def pixels_misscaled(case: Case) -> Iterator[Finding]:
    """Report pixels that are scaled twice or not at all, in the clear cases: no network says what it expects."""
    forward = case.forward
    if forward is None or not forward.bounded or not forward.span:
        return
    divides = f"SB3 {'divides' if case.policy.normalize_images else 'does not divide'} images by 255 here " + (
        f"(normalize_images={case.policy.normalize_images})"
    )
    if case.policy.normalize_images and not _image(case.policy):
        divides = "SB3 divides only uint8 images of three axes by 255, and these observations are none"
    numbers = (
        f"From black to white, {forward.low:.4g} to {forward.high:.4g} reaches the first convolution (noise: mean "
        f"{forward.mean:.4g}, spread {forward.std:.4g}); {divides}."
    )
    severity: Severity = "wrong" if case.presumed_pretrained else "risk"
    where = f"policy.{case.first.where}"
    once = "Scale once: pass policy_kwargs={'normalize_images': False}, or take the scaling out of the extractor."
    if forward.span < 0.05 and forward.std < 0.05:
        yield Finding("normalised-twice", severity, where, f"{numbers} Black and white look alike to it.", once)
    elif 15 < forward.span < 25 and forward.low < -5 and forward.high > 5:
        yield Finding("normalised-twice", severity, where, f"{numbers} ImageNet's mean and std were used twice.", once)
    elif forward.span > 100 and forward.low > -5:
        fix = "Divide by 255 in the extractor, and normalise as the weights were trained."
        yield Finding("not-normalised", severity, where, f"{numbers} Nobody scaled the pixels.", fix)
    elif abs(forward.span - 1) < 0.02 and abs(forward.low) < 0.01 and case.presumed_pretrained:
        fix = "Subtract the mean and divide by the standard deviation that the weights came with, in the extractor."
        yield Finding("not-normalised", "risk", where, f"{numbers} Most ImageNet weights expect -2.1 to 2.6.", fix)


def _image(policy: BasePolicy) -> bool:
    space = policy.observation_space
    return any(map(is_image_space, space.values())) if isinstance(space, spaces.Dict) else is_image_space(space)
