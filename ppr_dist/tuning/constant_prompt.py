"""Constant prompt: ppr-light with the same prompt for every user, learned by itself, which tells an extra token from
personalisation.
"""

from __future__ import annotations

from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.ppr import PPRLight


class ConstantPrompt(PPRLight):
    """Prompt, profile tables and profile encoder are trainable; items and backbone are frozen."""

    profile_uses = ("profile_encoder",)

    def attach_prompt(self, model: SequentialModel) -> None:
        model.attach_constant_prompt(self.prompt.tokens, layers=self.layers(model))
