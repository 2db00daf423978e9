"""ONNX Runtime as an engine, from the extra `onnx`. Its CPU kernels compute in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn


def session(module: nn.Module, sample: Tensor) -> Callable[[Tensor], Tensor]:
    """`module` in ONNX Runtime, for inputs of the shape of `sample`.

    Args:
        module: from pixels to features, in float32; it is moved to the CPU.
        sample: uint8 pixels `[N, 3, H, W]`.
    """
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(module.cpu(), (sample.cpu().contiguous(),), dynamo=True, verbose=False)
    assert program is not None
    file = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would go on spinning after their work, on the cores that torch and the environments need next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    running = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = running.get_inputs()[0].name

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(running.run(None, {name: pixels.contiguous().cpu().numpy()})[0]).to(pixels.device)

    return run
