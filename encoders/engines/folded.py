"""Folding BatchNorm into the convolution before it: the same function in inference, one pass over memory fewer."""

from __future__ import annotations

import copy

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(stage: nn.Module) -> nn.Module:
    """A copy of `stage` in eval mode with every BatchNorm2d that follows a Conv2d folded into it.

    Which layer follows which is read from the traced graph. A convolution whose weight is computed is left beside its
    norm, and a module that cannot be traced (its Python code looks at values) is copied as it is.
    """
    twin = copy.deepcopy(stage).eval()
    try:
        traced = fx.symbolic_trace(_Called(twin))
    except Exception:
        return twin
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        foldable = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and _plain(conv)
        if foldable and _once(traced.graph, before, node):
            fused = fuse_conv_bn_eval(conv, norm)
            _put(traced, str(before.target), fused)
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Called(nn.Module):
    """A stage as it is called: by its maps alone. Traced by itself, its optional arguments would be taken for given."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, maps: Tensor) -> Tensor:
        called: Tensor = self.stage(maps)
        return called


def _plain(conv: nn.Conv2d) -> bool:
    """Whether its weight is a number of its own, and not computed from others (weight_norm, spectral_norm, low rank):
    what is folded into it would be computed anew, or has no place."""
    return isinstance(conv._parameters.get("weight"), nn.Parameter) and not (
        parametrize.is_parametrized(conv) or conv._forward_pre_hooks or conv._forward_hooks
    )


def _once(graph: fx.Graph, *nodes: fx.Node) -> bool:
    """Whether each node's module is called nowhere else: one that is used twice cannot be folded into one place."""
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    return all(targets.count(node.target) == 1 for node in nodes)


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
