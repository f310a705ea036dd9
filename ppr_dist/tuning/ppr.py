"""Personalised prompts (PPR §3.4): a generator turns a profile into prompt rows before the clicks."""

from __future__ import annotations

import dataclasses

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt generator of ppr-light and ppr-full."""

    tokens: int = 1
    """Prompt rows the generator makes of a profile."""
    hidden: int = 128
    """Hidden units of the generator."""

    def __post_init__(self) -> None:
        require_positive(self, "prompt", "tokens", "hidden")


class PPRFull(TuningMethod):
    """Everything is trainable."""

    section = Prompt
    section_name = "prompt"
    objectives = ("contrastive",)
    profile_uses = ("prompt", "profile_encoder")

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.prompt = config.part("prompt", Prompt)
        if not self.features:
            raise UserError("prompts are made of profiles, and the data has no attributes: tune by another method")

    def attach(self, model: SequentialModel) -> None:
        model.attach_prompt(self.prompt.tokens, self.features, self.prompt.hidden)
        super().attach(model)


class PPRLight(PPRFull):
    """Prompt generator, profile tables and profile encoder are trainable; items and backbone are frozen."""

    trains_items = False

    def trainable(self, name: str) -> bool:
        return is_attached(name)
