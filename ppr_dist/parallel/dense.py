"""The dense tower inside a DeepSpeed engine, and its state by parameter name whatever the ZeRO stage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ppr_dist.config import Train
from ppr_dist.errors import UserError


def _deepspeed() -> Any:
    """Import DeepSpeed (seconds) only where an engine is built, quiet and without its compiled CPU op."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    # Otherwise DeepSpeed compiles a shared-memory op on first use: a minute, and a crash without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def make_engine(tower: nn.Module, train: Train, world_size: int) -> Any:
    """Wrap ``tower``; AdamW over the parameters that require a gradient, clipping and ZeRO by ``train``."""
    if train.precision == "bfloat16" and not torch.cuda.is_available():
        raise UserError("train.precision bfloat16 needs a GPU; use float32")
    trainable = [p for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=train.lr, weight_decay=train.weight_decay)
    deepspeed = _deepspeed()
    engine, *_ = deepspeed.initialize(
        model=tower,
        optimizer=optimizer,
        dist_init_required=False,
        config={
            # Users per rank vary by one; DeepSpeed only uses this for its own throughput log.
            "train_micro_batch_size_per_gpu": max(1, train.batch // world_size),
            "gradient_clipping": train.clip,
            "bf16": {"enabled": train.precision == "bfloat16"},
            "zero_optimization": {"stage": train.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        },
    )
    return engine


def set_lr(engine: Any, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def _partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _names(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    yield from engine.module.named_parameters()


def _base_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The torch optimizer under DeepSpeed's wrapper, if there is one."""
    optimizer: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return optimizer


_MOMENTS = ("exp_avg", "exp_avg_sq")


def state_dict(engine: Any) -> dict[str, Tensor]:
    """Full float32 parameters and Adam moments by name, the same under every ZeRO stage. A collective."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    state: dict[str, Tensor] = {}
    plain = _base_optimizer(engine).state
    for name, parameter in _names(engine):
        partitioned = _partitioned(parameter)
        full = safe_get_full_fp32_param(parameter) if partitioned and parameter.requires_grad else parameter
        if hasattr(full, "ds_id"):
            full = _gathered(full)
        state[f"parameter.{name}"] = full.detach().float().cpu().clone()
        if not parameter.requires_grad:
            continue
        for moment in _MOMENTS:
            if partitioned:
                value = safe_get_full_optimizer_state(parameter, moment)
            else:
                value = plain.get(parameter, {}).get(moment)
            value = torch.zeros_like(state[f"parameter.{name}"]) if value is None else value
            state[f"{moment}.{name}"] = value.detach().float().cpu().clone().view_as(state[f"parameter.{name}"])
    steps = [float(s["step"]) for s in plain.values() if "step" in s]
    state["step"] = torch.tensor(max(steps, default=0.0))
    return state


def _gathered(parameter: nn.Parameter) -> Tensor:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def load_state_dict(engine: Any, state: dict[str, Tensor]) -> None:
    """Put back what :func:`state_dict` returned, under this engine's ZeRO stage. A collective."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    base = _base_optimizer(engine)
    step = state["step"]
    for name, parameter in _names(engine):
        value = state[f"parameter.{name}"].to(engine.device)
        if _partitioned(parameter) and parameter.requires_grad:
            safe_set_full_fp32_param(parameter, value)
            with torch.no_grad():
                if not hasattr(parameter, "ds_id"):
                    parameter.copy_(value)
        elif hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(value)
        else:
            with torch.no_grad():
                parameter.copy_(value)
        if not parameter.requires_grad or step == 0:
            continue
        moments = {moment: state[f"{moment}.{name}"].to(engine.device) for moment in _MOMENTS}
        if _partitioned(parameter):
            for moment, tensor in moments.items():
                safe_set_full_optimizer_state(parameter, tensor, moment)
        else:
            base.state[parameter].update(moments, step=step.clone())
    for entry in base.state.values():
        if step != 0:
            entry["step"] = step.clone()
