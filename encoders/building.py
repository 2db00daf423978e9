"""build(): an encoder from its name. The one door through which both tracks and library users get their eyes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from stillsight.encoders import device as devices
from stillsight.encoders.adapt import Adaptation, merge
from stillsight.encoders.backbone import Backbone
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.encoder import Encoder, fingerprint, up_to
from stillsight.encoders.errors import EncoderError, last_line
from stillsight.encoders.mode import Mode
from stillsight.encoders.taps.tap import stages_of
from stillsight.encoders.weights import sources
from stillsight.encoders.weights.fitting import check_values, load_into
from stillsight.encoders.weights.provenance import Provenance
from stillsight.encoders.zoo.contract.contract import check
from stillsight.encoders.zoo.contract.first_sight import FirstSight
from stillsight.encoders.zoo.function import takes_pretrained
from stillsight.encoders.zoo.registry import make_backbone, spec


def build(
    encoder: EncoderConfig | str, mode: Mode | str | None = None, *, pinned: bool = True, **options: Any
) -> Encoder:
    """Build an encoder.

    Args:
        encoder: a registered name (`stillsight list encoders`), a third party's `module:function` that returns a
            `Backbone`, or a whole configuration.
        mode: frozen (by default), random, finetune or scratch.
        pinned: keep dropout off in the part that learns, and BatchNorm statistics fixed unless `batchnorm` says so.
        options: the other fields of `EncoderConfig`: `tap` and `pooling` (by default the network's own),
            `resolution`, `unfreeze`, `adapt`, `batchnorm`, `lora_rank`, `weights`, `weights_folder`,
            `accept_license`, `seed`, `precision`, `device`.

    Raises:
        EncoderError: unknown name, stage, pooling or device; another value than an option takes, or one that the mode
            makes no use of; weights missing, damaged or not fitting; a third party's network breaks its contract.
        TypeError: there is no such option.
    """
    config = _configured(encoder, mode, options)
    config.check_settings()
    row = spec(config.encoder)
    tap = config.tap or row.tap
    for stage in stages_of(tap):
        row.check_tap(stage)
    with torch.random.fork_rng(devices=[]):  # random weights depend on the seed alone, not on what ran before
        torch.manual_seed(config.seed)
        backbone = make_backbone(config.encoder, pretrained=config.mode.pretrained and config.weights is None)
    provenance = _pretrained(config, backbone, tap) if config.mode.pretrained else _random(config, backbone, tap)
    run = replace(backbone, stages=up_to(backbone, tap, config.encoder), tap=tap)
    unfreeze = (config.unfreeze or "all") if config.mode.trained else None
    proved = not row.own or check(config.encoder, run, learns=unfreeze)
    built = Encoder(
        backbone,
        name=config.encoder,
        tap=tap,
        pooling=config.pooling or row.pooling,
        resolution=config.resolution,
        unfreeze=unfreeze,
        pinned=pinned,
        shielded=config.mode.pretrained,
        adaptation=Adaptation(what=config.adapt, batchnorm=config.batchnorm, rank=config.lora_rank, seed=config.seed),
        precision=config.precision,
        provenance=provenance,
        seed=config.seed,
        first_sight=None if proved else FirstSight(config.encoder, run, learns=unfreeze),
    )
    again = replace(config, accept_license=False)  # whoever unpickles it accepts for themselves
    built.recipe = Recipe(again, pinned, fingerprint(built.learned.state_dict()))
    target = devices.pick_device(config.device)
    # The learned part keeps its layout: SB3's orthogonal initialisation cannot write into NHWC tensors.
    devices.channels_last(built.frozen, target)
    return built.to(target)


@dataclass(frozen=True)
class Recipe:
    """What an encoder was built from: it is pickled in the encoder's place, a kilobyte and not the network once more.

    Attributes:
        config: what was chosen.
        pinned: see `build`.
        learned_sha256: of the part that learns, as it was built; "" where nobody knows.
    """

    config: EncoderConfig
    pinned: bool
    learned_sha256: str = ""

    def rebuild(
        self,
        frozen_sha256: str,
        pixels: tuple[int, int] | None = None,
        learned: Mapping[str, Tensor] | None = None,
        training: bool = True,
    ) -> Encoder:
        """Build the encoder again.

        Args:
            frozen_sha256: of its frozen weights.
            pixels: height and width of the images that it has seen, if it has seen any.
            learned: state of the part that learns, where that is no longer what it was built as.
            training: whether it was in train mode.

        Raises:
            EncoderError: its weights are not the ones that it was pickled with, or what it learned is of another
                network.
        """
        encoder = build(self.config, pinned=self.pinned)
        now = fingerprint(encoder.frozen.state())
        if now != frozen_sha256:
            raise EncoderError(
                f"The weights of {encoder.name} have changed: this model was saved with frozen weights "
                f"{frozen_sha256[:12]}, and {encoder.provenance.name} now holds {now[:12]}. Give it the weights that "
                "it was trained with."
            )
        if learned is not None:
            _take(encoder, learned)
        elif self.learned_sha256 not in ("", begun := fingerprint(encoder.learned.state_dict())):
            raise EncoderError(
                f"The weights with which {encoder.name} begins to learn have changed: this model was saved with "
                f"{self.learned_sha256[:12]}, and {encoder.provenance.name} now gives {begun[:12]}. Give it the "
                "weights and the packages that it was built with."
            )
        if pixels is not None:
            # Which tells both parts how an image is laid out: taps, poolings of tokens, and stages of its own may ask.
            encoder.frozen.frame_shape((3, *pixels))
        return encoder.train(training)


def _take(encoder: Encoder, learned: Mapping[str, Tensor]) -> None:
    """Put what it had learned into an encoder that was built again.

    Raises:
        EncoderError: it is of another network.
    """
    if encoder.learned.state_dict().keys() != learned.keys():
        merge(encoder.learned)  # as it was for good where low-rank additions are no longer there
    try:
        encoder.learned.load_state_dict(learned)
    except RuntimeError as error:
        raise EncoderError(
            f"What {encoder.name} had learned does not fit the network that it is now "
            f"({last_line(error).strip()}). Give it the code that it was trained with."
        ) from error


def _configured(encoder: EncoderConfig | str, mode: Mode | str | None, options: Mapping[str, Any]) -> EncoderConfig:
    """The configuration that the arguments of `build` stand for, without what a subclass of it adds."""
    own = {}
    if not isinstance(encoder, str):
        own = {field.name: getattr(encoder, field.name) for field in fields(EncoderConfig)}
    changed = {**options, **({} if mode is None else {"mode": mode})}
    chosen = {**own, **changed} if own else {"encoder": encoder, **changed}
    chosen["device"] = str(chosen.get("device", "auto"))
    return EncoderConfig(**chosen)


def _pretrained(config: EncoderConfig, backbone: Backbone, tap: str) -> Provenance:
    """Put pretrained weights into `backbone`, unless it came with them, and say where they are from."""
    row = spec(config.encoder)
    if config.weights is None and backbone.pretrained:
        state = {
            f"{stage}.{name}": tensor  # by stage: their own names are often the same ones
            for stage, module in up_to(backbone, tap).items()
            for name, tensor in module.state_dict().items()
        }
        check_values(state, state, f"The weights that {config.encoder} brings are damaged:")
        licence = backbone.licence or "not stated by its function: yours to check"
        return Provenance(kind="function", name=config.encoder, sha256=fingerprint(state), licence=licence)
    if config.weights is None and row.weights == "function":
        raise EncoderError(
            f"{config.encoder} was called with pretrained=True, and its Backbone does not say pretrained=True. Let it "
            "say so, with its licence, or give --weights FILE."
        )
    weights = sources.find(row, config.weights, config.weights_folder, accept=config.accept_license)
    if weights.encoder not in ("", config.encoder):
        raise EncoderError(
            f"{weights.provenance.name} trained {weights.encoder}, and --encoder is {config.encoder}. Type --encoder "
            f"{weights.encoder}, or give other --weights."
        )
    source = weights.provenance.name
    where = load_into(backbone, weights.content, source, tap, config.encoder, by_order=weights.by_order)
    return replace(weights.provenance, name=f"{source} ({where})") if where else weights.provenance


def _random(config: EncoderConfig, backbone: Backbone, tap: str) -> Provenance:
    """Where random weights are from: the seed. A third party's function may have loaded its own, which must not stay.

    Raises:
        EncoderError: the weights do not depend on the seed, and some layers cannot be initialised anew.
    """
    name = f"seed {config.seed}"
    if spec(config.encoder).own and _draw_anew(config, backbone, tap):
        name += ", initialised layer by layer"
    return Provenance(kind="random", name=name, licence="none needed")


def _draw_anew(config: EncoderConfig, backbone: Backbone, tap: str) -> bool:
    """Draw by their layer's own `reset_parameters` all tensors up to `tap` that are the same under every seed.

    Constants (ones and zeros of BatchNorm) follow no seed, nor do buffers of layers that draw nothing (a blur's
    kernel). A function that is told pretrained=False may start from parameters that it computes (positions of sines),
    as long as it draws more numbers than these.

    Returns:
        Whether there were any.

    Raises:
        EncoderError: a layer of theirs has no reset_parameters.
    """
    model = backbone.model
    needed = {id(t) for stage in up_to(backbone, tap).values() for t in stage.state_dict(keep_vars=True).values()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        other = make_backbone(config.encoder).model.state_dict()
    owners: dict[str, nn.Module] = {}
    kept: dict[str, int] = {}
    drawn = 0
    for path, module in model.named_modules():
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            name = f"{path}.{key}" if path else key
            if id(tensor) not in needed or name not in other or not _varies(tensor):
                continue
            parameter = isinstance(tensor, nn.Parameter)
            drawn += tensor.numel() if parameter else 0
            if not torch.equal(tensor, other[name].to(tensor)):
                continue
            if callable(getattr(module, "reset_parameters", None)):
                owners[path] = module
            elif parameter:
                kept[path] = kept.get(path, 0) + tensor.numel()
    if kept and not (takes_pretrained(spec(config.encoder).builder) and 2 * sum(kept.values()) < drawn):
        raise EncoderError(
            f"--mode {config.mode.value} starts from random weights, and {config.encoder} returns the same ones under "
            f"every seed: it loads pretrained weights itself, and {next(iter(kept)) or 'the network'} has no "
            "reset_parameters to draw others. Give the function an argument pretrained, and let it load nothing where "
            "that is False."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for module in owners.values():
            module.reset_parameters()  # type: ignore[operator]
    return bool(owners)


def _varies(tensor: Tensor) -> bool:
    """Whether it holds numbers that somebody may have drawn or learned: no constant, no integers."""
    return tensor.is_floating_point() and tensor.numel() > 1 and bool(tensor.min() != tensor.max())
