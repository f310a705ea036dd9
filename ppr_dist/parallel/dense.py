"""The sequential model inside a DeepSpeed engine, and its state by parameter name whatever the ZeRO stage."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ppr_dist.config import Train


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


def make_engine(model: nn.Module, train: Train, world_size: int, pretrained: Sequence[nn.Parameter] = ()) -> Any:
    """Wrap ``model``; AdamW over the parameters that require a gradient, clipping and ZeRO by ``train``.

    ``pretrained``: those of its parameters that learn at ``train.pretrained_lr``.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = _groups(trainable, train, {id(p) for p in pretrained})
    optimizer = torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    deepspeed = _deepspeed()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        dist_init_required=False,
        config={
            # Users per rank vary by one; DeepSpeed only uses this for its own throughput log.
            "train_micro_batch_size_per_gpu": max(1, train.global_batch_size // world_size),
            # 0 would leave out the norm, which is logged, at ZeRO 0; the others compute it anyway.
            "gradient_clipping": train.max_grad_norm or (0.0 if train.zero_stage else math.inf),
            # Not its "bf16": at ZeRO 0 that hides the trained float32 values from us, and asks the GPU for overflows.
            # No module is "safe": gradients of linear layers would be summed over ranks in bfloat16 at ZeRO 1 to 3.
            "torch_autocast": {
                "enabled": train.precision == "bfloat16",
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],
            },
            # Its own linear layer at ZeRO 3 rounds otherwise than torch's under autocast, and replaces that for good.
            "zero_optimization": {"stage": train.zero_stage, "memory_efficient_linear": False},
            "zero_allow_untested_optimizer": True,
            # Otherwise its own throughput log waits for the GPU twice a step.
            "timers": {"throughput": {"enabled": False}},
            "steps_per_print": 10**9,
        },
    )
    if world_size == 1 and train.zero_stage == 0:
        engine.enable_backward_allreduce = False  # nobody to average with, yet it would copy every gradient twice

    def clip() -> None:
        engine._global_grad_norm = _clip(trainable, train.max_grad_norm)

    engine.clip_fp32_gradients = clip  # what it calls at ZeRO 0
    return engine


def autocast(engine: Any) -> torch.autocast:
    """What the engine's forward pass runs under, for calls of its submodules."""
    return torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.torch_autocast_enabled())


def grad_norm(engine: Any) -> Tensor | float | None:
    """Norm of the dense parameters' gradients over all ranks in the step before, as it was before clipping.

    At ZeRO 1 to 3 DeepSpeed says infinity where it is not finite, and leaves the dense update out.
    """
    norm: Tensor | float | None = engine.get_global_grad_norm()
    return norm


def _clip(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients to a norm of at most ``limit`` (0: none), and return the norm that they had.

    DeepSpeed's own function makes tensors of the limit on the host and waits for their copy to the GPU.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).square().sum().sqrt()
    if limit:
        torch._foreach_mul_(gradients, (torch.full_like(norm, limit) / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _groups(trainable: list[nn.Parameter], train: Train, pretrained: set[int]) -> list[dict[str, Any]]:
    """The optimizer's groups: one where there is one learning rate; ``pretrained``: ids of parameters."""
    if train.pretrained_lr is None:
        return [{"params": trainable, _FULL: train.lr}]
    new = [p for p in trainable if id(p) not in pretrained]
    old = [p for p in trainable if id(p) in pretrained]
    both = [(new, train.lr), (old, train.pretrained_lr)]
    return [{"params": part, "lr": lr, _FULL: lr} for part, lr in both if part]  # ZeRO takes no empty group


def scale_lr(engine: Any, share: float) -> None:
    """Set every learning rate to ``share`` of what the configuration says."""
    for group in engine.optimizer.param_groups:
        group["lr"] = group[_FULL] * share


_FULL = "initial_lr"  # torch's own word for it, in schedules
_MOMENTS = ("exp_avg", "exp_avg_sq")


def state_dict(engine: Any, *, frozen: bool = True) -> dict[str, Tensor]:
    """Full float32 parameters and Adam moments by name, and buffers, the same under every ZeRO stage. A collective.

    ``frozen``: parameters that are not trainable too.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    base = _optimizer_with_moments(engine)
    state: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if not (frozen or parameter.requires_grad):
            continue
        managed = _managed(parameter)
        full = safe_get_full_fp32_param(parameter) if managed else _whole(parameter)
        state[f"parameter.{name}"] = _copy(full)
        if parameter.requires_grad:
            for moment in _MOMENTS:
                value = safe_get_full_optimizer_state(parameter, moment) if managed else base.state[parameter][moment]
                state[f"{moment}.{name}"] = _copy(value).view_as(full)
    state |= {f"buffer.{name}": buffer.detach().cpu().clone() for name, buffer in engine.module.named_buffers()}
    state["step"] = torch.tensor(max((float(s["step"]) for s in base.state.values()), default=0.0))
    return state


def load_state_dict(engine: Any, state: dict[str, Tensor]) -> None:
    """Put back what :func:`state_dict` returned, under this engine's ZeRO stage. A collective.

    Frozen parameters that are not there stay as they are.
    """
    base = _optimizer_with_moments(engine)
    for name, parameter in engine.module.named_parameters():
        if f"parameter.{name}" not in state and not parameter.requires_grad:
            continue
        managed = _managed(parameter)
        value = state[f"parameter.{name}"].to(engine.device)
        _set_whole(parameter, value)  # what the forward pass uses
        if managed:
            _set_managed(parameter, value)  # what the optimizer steps from
        if parameter.requires_grad:
            for moment in _MOMENTS:
                tensor = state[f"{moment}.{name}"].to(engine.device)
                if managed:
                    _set_managed(parameter, tensor, moment)
                else:
                    base.state[parameter][moment].copy_(tensor)
    for name, buffer in engine.module.named_buffers():
        buffer.copy_(state[f"buffer.{name}"])
    for entry in base.state.values():
        entry["step"].copy_(state["step"])


def _managed(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed keeps the trained values elsewhere, in partitions (ZeRO 1–3)."""
    return parameter.requires_grad and (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"))


def _set_managed(parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
    """Set the float32 values DeepSpeed trains, or one of their moments, to the full ``value``."""
    from deepspeed import utils

    if not hasattr(parameter, "ds_tensor"):
        if moment is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, moment)
        return
    # ZeRO 3's setter of full values fails where they do not divide into equal partitions; set this rank's own.
    size = parameter.ds_tensor.ds_numel
    padded = nn.functional.pad(value.flatten(), (0, -value.numel() % size))
    own = padded.narrow(0, dist.get_rank() * size, size)
    if moment is None:
        utils.safe_set_local_fp32_param(parameter, own)
    else:
        utils.safe_set_local_optimizer_state(parameter, own, moment)


def _optimizer_with_moments(engine: Any) -> torch.optim.Optimizer:
    """The torch optimizer under DeepSpeed's wrapper, its moments made if no step has made them yet."""
    base: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    # ZeRO 3 lends the torch optimizer one partition at a time; the others list all of theirs in its groups.
    partitions = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    for p in partitions or [p for group in base.param_groups for p in group["params"]]:
        if "exp_avg" not in base.state[p]:
            # The step lies where the parameter does: the fused kernel wants it there.
            base.state[p] = {"step": torch.zeros((), device=p.device), **{m: torch.zeros_like(p) for m in _MOMENTS}}
    # ZeRO 1 and 2 tell parameters where their moments lie only after the first step, and then of the first group alone.
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        engine.optimizer._hp_optimizer_states_linked = False
        link()
    return base


def _whole(parameter: nn.Parameter) -> Tensor:
    """The full values of a frozen parameter; ZeRO 3 partitions it too."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


@torch.no_grad()
def _set_whole(parameter: nn.Parameter, value: Tensor) -> None:
    if not hasattr(parameter, "ds_id"):
        parameter.copy_(value)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.copy_(value)


def _copy(x: Tensor) -> Tensor:
    return x.detach().float().cpu().clone()
