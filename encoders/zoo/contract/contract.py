"""What a `Backbone` promises, checked on its network: what it breaks would otherwise be found in nobody's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError, in_brackets
from stillsight.encoders.taps.tap import rows_and_columns, stages_of
from stillsight.encoders.zoo.contract.gradient import check_gradient
from stillsight.encoders.zoo.contract.ownership import check_ownership, copied, held, state_of
from stillsight.encoders.zoo.contract.stages import first_apart, noise, run, sides

if TYPE_CHECKING:
    from torch import Tensor


MOST_TOKENS = 17
"""Numbers of tokens before the patches that are tried lie below this: a class token, and up to 15 registers."""


class BlockedError(EncoderError):
    """Images of one size do not get through all stages; those of another may."""


def check(path: str, backbone: Backbone, *, learns: str | None = None) -> bool:
    """Refuse a backbone whose stages are not what they must be.

    Args:
        path: what the encoder is called in messages.
        backbone: as its function returned it, with the stages that will run and the tap that they run for.
        learns: the stage from which on it is to be trained, "all" for all of it; None for nothing.

    Returns:
        Whether images of some size got through; if not, only what can be seen without running it was looked at, and
        `FirstSight` looks at the rest.

    Raises:
        EncoderError: the parameters are not float32, or layers stay in train mode; or see `check_at`.
    """
    _check_tensors(path, backbone)
    _check_switches(path, backbone)
    # Sides that differ tell channels from rows.
    shapes = [shape for side in sides(backbone) for shape in ((side, 2 * side), (side, side))]
    for shape in shapes:
        try:
            outputs = check_at(path, backbone, shape, learns=learns)
        except BlockedError:  # too small for some stage, or not square: another image may pass
            continue
        _check_tokens(path, backbone, outputs, shape, [other for other in shapes if other != shape])
        return True
    return False


def check_at(path: str, backbone: Backbone, image: tuple[int, int], *, learns: str | None = None) -> dict[str, Tensor]:
    """Refuse a backbone by what its stages make of two images of this height and width, in pixels; other arguments as
    in `check`.

    Returns:
        What each stage hands on of them.

    Raises:
        BlockedError: they do not get through.
        EncoderError: a stage hands on something else than one float32 tensor, or maps with their channels last; what it
            hands on is another the next time, or in another batch; it changes what it holds; or it computes with a
            tensor of the model that no stage holds, so that it is neither loaded, hashed nor frozen; or a weight that
            is to learn matters and gets no gradient; or a stage changes what it is given.
    """
    import torch

    # Whoever encodes may do it in inference mode, in which no gradient can be computed.
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        images = noise(backbone, image)
        lasting = copied(held(backbone, lasting=True))
        outputs = _passed(path, backbone, images.clone(), image)
        for stage, output in outputs.items():
            _check_output(path, stage, output, image)
        _check_unchanged(path, backbone, lasting)
        _check_given(path, backbone, images)
        _check_again(path, backbone, images, outputs)
        _check_alone(path, backbone, images, outputs)
        check_ownership(path, backbone, images, outputs)
        if learns is not None:
            check_gradient(path, backbone, images, outputs, learns)
    return outputs


def _passed(path: str, backbone: Backbone, images: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
    outputs: dict[str, Any] = {}
    try:
        return run(backbone, images, outputs)
    except Exception as error:  # whatever a network says
        for stage, output in outputs.items():
            _check_kind(path, stage, output)  # which the next stage stumbled over
        stage = list(backbone.stages)[len(outputs)]
        raise BlockedError(
            f"Images of {image[0]} x {image[1]} px do not get through stage {stage} of {path} "
            f"({in_brackets(error)}). Give images of another size (--size or --resolution), or let the stage "
            "take these; they come as [N, 3, H, W]."
        ) from error


def _check_tensors(path: str, backbone: Backbone) -> None:
    """Refuse what a stage holds, without running it."""
    import torch
    from torch.nn.parameter import is_lazy

    for stage, module in backbone.stages.items():
        for key, tensor in state_of(module).items():
            if is_lazy(tensor):
                raise EncoderError(
                    f"Stage {stage} of {path} holds {key}, whose shape is not known before an image has passed. Pass "
                    "one in the function, of the size that you will give it: model(torch.zeros(1, 3, 64, 64))."
                )
            if not isinstance(tensor, torch.Tensor) or tensor.is_quantized:
                raise EncoderError(
                    f"Stage {stage} of {path} holds {key}, which is {_kind(tensor)} and no tensor of float32: "
                    "quantised layers can be neither loaded, hashed nor trained here. Return the network as it is "
                    "before it is quantised; --precision bf16 rounds where it pays."
                )
        for key, parameter in module.named_parameters():
            if parameter.dtype not in (torch.float32, torch.complex64):
                raise EncoderError(
                    f"Stage {stage} of {path} holds {key} in {str(parameter.dtype).removeprefix('torch.')}, and "
                    "weights are kept in float32 here; --precision bf16 rounds where it pays. Return model.float()."
                )


def _kind(value: Any) -> str:
    return "quantised" if getattr(value, "is_quantized", False) else f"a {type(value).__name__}"


def _check_switches(path: str, backbone: Backbone) -> None:
    """Refuse a stage that eval() does not bring into eval mode."""
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    for stage, module in backbone.stages.items():
        flags = [(each, each.training) for each in module.modules()]
        try:
            returned = module.eval()
            if returned is not module:
                raise EncoderError(
                    f"eval() of stage {stage} of {path} returns a {type(returned).__name__}, and that of torch returns "
                    "the module. Let it end with: return super().eval()."
                )
            for name, each in module.named_modules():
                if each.training and isinstance(each, _NormBase | _DropoutNd):
                    raise EncoderError(
                        f"Stage {stage} of {path} keeps {name or 'itself'} ({type(each).__name__}) in train mode after "
                        "eval(): what is frozen would change with every batch. Let its train(mode) pass the mode on: "
                        "super().train(mode)."
                    )
        finally:
            for each, training in flags:
                each.training = training


def _check_kind(path: str, stage: str, output: Any) -> None:
    import torch

    if not isinstance(output, torch.Tensor):
        raise EncoderError(
            f"Stage {stage} of {path} returns a {type(output).__name__}, and a stage must hand on one tensor. Wrap it "
            "in a module that returns the tensor alone."
        )


def _check_output(path: str, stage: str, output: Any, image: tuple[int, int]) -> None:
    import torch

    _check_kind(path, stage, output)
    if output.dtype != torch.float32:
        raise EncoderError(
            f"Stage {stage} of {path} computes in {str(output.dtype).removeprefix('torch.')}, and weights are kept in "
            "float32 here; --precision bf16 rounds where it pays. Return model.float()."
        )
    if output.dim() not in (2, 3, 4):
        raise EncoderError(
            f"Stage {stage} of {path} hands on {list(output.shape)}. Allowed: a map [N, C, h, w], tokens [N, L, C] or "
            "a vector [N, C]."
        )
    if not output.isfinite().all():
        raise EncoderError(
            f"Stage {stage} of {path} hands on values that are not finite of an image of noise. Look for a division by "
            "0, a root of what is negative, or weights that are damaged."
        )
    if output.dim() == 4 and _channels_last(tuple(output.shape[1:]), image):
        raise EncoderError(
            f"Stage {stage} of {path} hands on {list(output.shape)}, which is a map with its channels last. Let the "
            "stage end with: maps.permute(0, 3, 1, 2)."
        )


def _channels_last(shape: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether the proportions of the image are found in the first two sides and not in the last two."""
    wide = image[1] / image[0]

    def fits(rows: int, columns: int) -> bool:
        return abs(columns / rows - wide) < 0.35 * wide

    if image[0] == image[1]:
        return shape[0] == shape[1] != shape[2]
    return fits(shape[0], shape[1]) and not fits(shape[1], shape[2])


def _check_tokens(
    path: str,
    backbone: Backbone,
    outputs: Mapping[str, Tensor],
    shape: tuple[int, int],
    others: list[tuple[int, int]],
) -> None:
    """Refuse tokens with their channels first, which are told by images of another size: there are more of them. And
    those of which another number stands before the patches than the backbone says."""
    import torch

    tokens = {stage: output.shape for stage, output in outputs.items() if output.dim() == 3}
    if not tokens:
        return
    for image in others:
        try:
            with torch.no_grad():
                again = run(backbone, noise(backbone, image))
        except Exception:  # whatever a network says
            continue
        for stage, handed in tokens.items():
            if again[stage].dim() == 3 and again[stage].shape[2] != handed[2]:
                raise EncoderError(
                    f"Stage {stage} of {path} hands on {list(handed)} of one image and {list(again[stage].shape)} of "
                    "one of another size, so that its last number counts places, and tokens are [N, L, C]. Let the "
                    "stage end with: tokens.transpose(1, 2)."
                )
        _check_class_tokens(path, backbone, {shape: outputs, image: again})
        return


def _check_class_tokens(path: str, backbone: Backbone, outputs: Mapping[tuple[int, int], Mapping[str, Tensor]]) -> None:
    """Refuse a number of tokens before the patches with which these form no grid, where another number makes them one.

    Args:
        path, backbone: see `check`.
        outputs: by height and width of the images, of two sizes.
    """
    tap = stages_of(backbone.tap)[-1]
    counts = {image: handed[tap].shape[1] for image, handed in outputs.items() if handed[tap].dim() == 3}
    if len(set(counts.values())) < 2:
        return

    def fits(class_tokens: int) -> bool:
        return all(rows_and_columns(count - class_tokens, image) for image, count in counts.items())

    if fits(backbone.class_tokens):
        return
    if (found := next(filter(fits, range(MOST_TOKENS)), None)) is not None:
        raise EncoderError(
            f"Stage {tap} of {path} hands on {' and '.join(map(str, counts.values()))} tokens of images of "
            f"{' and '.join(f'{rows} x {columns}' for rows, columns in counts)} px, which are a grid of patches with "
            f"{found} more before it, and its Backbone says class_tokens={backbone.class_tokens}. Let it say "
            f"class_tokens={found}."
        )


def _check_unchanged(path: str, backbone: Backbone, before: Mapping[str, Tensor]) -> None:
    """Refuse a network that has changed what it holds.

    Args:
        path, backbone: see `check`.
        before: copies of it, by name.
    """
    import torch

    now = held(backbone)
    for name, tensor in before.items():
        if name not in now or not torch.equal(torch.nan_to_num(now[name]), torch.nan_to_num(tensor)):
            raise EncoderError(
                f"{path} changes {name} whenever images pass, in eval mode too, and what is frozen must stay as it is "
                "to the bit. Let forward() change it where self.training is true alone; a network that is traced must "
                "be in eval mode before: torch.jit.trace(model.eval(), ...)."
            )


def _check_given(path: str, backbone: Backbone, images: Tensor) -> None:
    """Refuse a network with a stage that changes the tensor that it is given: a tap on the way keeps that tensor, and
    what stands at the cut is in a buffer."""
    import torch

    for stage, module in backbone.stages.items():
        given = images.clone()
        handed_on = run(replace(backbone, stages={stage: module}), given)[stage]
        # The count of changes tells of one in which no number became another: gradients of others are gone all the
        # same.
        if given._version or not torch.equal(torch.nan_to_num(given), torch.nan_to_num(images)):
            raise EncoderError(
                f"Stage {stage} of {path} changes the tensor that it is given, in place, and that may be kept: by a "
                "tap on the stage before it, or in a buffer where the network is cut. Let it compute a new one: "
                "F.relu(x) in place of F.relu(x, inplace=True) or x.relu_(), y = x + z in place of x += z."
            )
        images = handed_on


def _check_again(path: str, backbone: Backbone, images: Tensor, outputs: Mapping[str, Tensor]) -> None:
    """Refuse a network that gives other numbers the next time, or changes what it needs for them."""
    before = copied(held(backbone))
    again = run(backbone, images)
    _check_unchanged(path, backbone, before)
    if moved := first_apart(again, outputs):
        stage, difference = moved
        raise EncoderError(
            f"Stage {stage} of {path} hands on other numbers when the same images pass once more, by {difference:.1%} "
            "of the largest: something is drawn at random in eval mode too. Let dropout follow the mode: "
            "F.dropout(x, p, self.training), or nn.Dropout(p)."
        )


def _check_alone(path: str, backbone: Backbone, images: Tensor, outputs: Mapping[str, Tensor]) -> None:
    """Refuse a network in which the features of an image depend on the others of its batch."""
    alone = run(backbone, images[1:])
    if moved := first_apart(alone, {stage: output[1:] for stage, output in outputs.items()}):
        stage, difference = moved
        raise EncoderError(
            f"What stage {stage} of {path} hands on of an image depends on its batch, by {difference:.1%} of the "
            "largest number: the same picture would look otherwise beside others. Normalise each image by itself, or "
            "by statistics that are kept (nn.BatchNorm2d)."
        )
