"""Synonyms: what other tools call a flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SYNONYMS: Mapping[str, Sequence[str]] = {
    "learning-rate": ("--lr {}", "--set learning_rate={}"),
    "lr": ("--set learning_rate={}",),
    "batch-size": ("--batch {}", "--set batch_size={}"),
    "total-timesteps": ("--steps {}",),
    "total-steps": ("--steps {}",),
    "timesteps": ("--steps {}",),
    "n-timesteps": ("--steps {}",),
    "num-timesteps": ("--steps {}",),
    "num-envs": ("--n-envs {}",),
    "env-id": ("--env {}",),
    "env-kwargs": ("--env-set {}",),
    "algorithm": ("--algo {}",),
    "hyperparams": ("--set {}",),
    "backbone": ("--encoder {}",),
    "model": ("--encoder {}",),
    "arch": ("--encoder {}",),
    "layer": ("--tap {}",),
    "pretrained": ("--mode finetune",),
    "freeze": ("--mode frozen",),
    "frozen": ("--mode frozen",),
    "num-epochs": ("--epochs {}",),
    "wd": ("--weight-decay {}",),
    "image-size": ("--size {}", "--resolution {}"),
    "img-size": ("--size {}", "--resolution {}"),
    "output": ("--out {}",),
    "output-dir": ("--out {}",),
    "out-dir": ("--out {}",),
    "log-dir": ("--out {}",),
    "save-dir": ("--out {}",),
    "gpu": ("--device cuda",),
    "cuda": ("--device cuda",),
    "cpu": ("--device cpu",),
    "n-eval-episodes": ("--eval-episodes {}", "--episodes {}"),
    "n-episodes": ("--episodes {}",),
    "eval-freq": ("--eval-every {}",),
    "save-freq": ("--checkpoint-every {}",),
}
"""What other tools call a flag -> what to type here, {} for its value: the first whose flag the command has."""
