"""Personalised prompts (PPR §3.4): a generator turns a profile into prompt rows before the clicks."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from torch import nn

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt of ppr-light, ppr-full and constant-prompt, and its generator."""

    tokens: int = 1
    """Prompt rows the generator makes of a profile; at most ``model.max_length``."""
    hidden: int = 128
    """Hidden units of the generator."""
    each_layer: bool = False
    """Whether each layer of the backbone finds prompt rows of its own before the clicks (prefix-tuning, Li & Liang, ACL
    2021), not what the layer before made of the first ones. Before any click a state then comes of the last layer's."""
    out_std: float | None = None
    """Standard deviation of the first weights of the generator's last layer, whose bias is then 0; null = torch's own
    (uniform, up to 1/√hidden). 0 begins with a prompt of zeros. Where layers normalise what they are given
    (``sasrec.norm`` pre, hstu) only elements below 0.003, the root of the norm's epsilon, stay small: others are scaled
    to full size."""
    begin: Literal["random", "item-means"] = "random"
    """First values of the profile tables that the generator reads: random, or of each attribute value the mean of the
    pre-trained vectors of the items that users with it clicked. The latter needs ``profiles.attribute_dim`` equal to
    ``model.dim``, and a pass over the users to tune on."""

    def __post_init__(self) -> None:
        require_positive(self, "prompt", "tokens", "hidden")
        if self.out_std is not None and self.out_std < 0:
            raise UserError(f"prompt.out_std must be 0 or more, got {self.out_std}")


class PPRFull(TuningMethod):
    """Everything is trainable."""

    section = Prompt
    section_name = "prompt"
    objectives = ("contrastive",)
    profile_uses: ClassVar[tuple[str, ...]] = ("prompt", "profile_encoder")

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.prompt = config.part("prompt", Prompt)
        if not self.features:
            raise UserError(
                "prompts are made of profiles, and the data has no attributes or user vectors: tune by another method"
            )
        if self.prompt.tokens > config.model.max_length:
            raise UserError(f"prompt.tokens {self.prompt.tokens}: more than model.max_length {config.model.max_length}")
        widths = config.profiles.attribute_dim, config.model.dim
        if self.prompt.begin == "item-means" and widths[0] != widths[1]:
            raise UserError("prompt.begin item-means: profiles.attribute_dim {} is not model.dim {}".format(*widths))

    def attach(self, model: SequentialModel) -> None:
        self.attach_prompt(model)
        super().attach(model)

    def attach_prompt(self, model: SequentialModel) -> None:
        made = model.attach_prompt(self.prompt.tokens, self.features, self.prompt.hidden, layers=self.layers(model))
        if self.prompt.out_std is not None:
            nn.init.normal_(made.second.weight, std=self.prompt.out_std)
            nn.init.zeros_(made.second.bias)

    def layers(self, model: SequentialModel) -> int:
        """Layers that have prompt rows of their own."""
        if not self.prompt.each_layer:
            return 1
        if not model.backbone.prompted_layers:
            raise UserError(f"prompt.each_layer: backbone {self.config.model.backbone} has no place for prompts inside")
        return model.backbone.prompted_layers

    def begins_as_item_means(self) -> tuple[str, ...]:
        begins = self.prompt.begin == "item-means"
        return tuple(use for use in self.profile_uses if use == "prompt" and begins)


class PPRLight(PPRFull):
    """Prompt generator, profile tables and profile encoder are trainable; items and backbone are frozen."""

    trains_items = False

    def trainable(self, name: str) -> bool:
        return is_attached(name)
