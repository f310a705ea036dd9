"""Methods that make user vectors by a network of their own, in place of backbone and profile encoder."""

from __future__ import annotations

from torch import nn

from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.tuning.base import TuningMethod, is_attached


class UserModelMethod(TuningMethod):
    """Items and the network are trainable; of the pre-trained model nothing but the items is used."""

    def user_model(self, model: SequentialModel) -> nn.Module:
        """The network: ``module(items, batch, profiles)`` → [P, D]."""
        raise NotImplementedError

    def attach(self, model: SequentialModel) -> None:
        (name,), objectives = self.profile_uses, self.config.train.objectives
        if not model.backbone.causal:
            raise UserError(f"{name}: backbone {self.config.model.backbone} has masked histories: start from another")
        if not any(OBJECTIVES[each].scores_items for each in objectives):
            named = ", ".join(objectives)
            raise UserError(f"{name}: of train.objectives {named} none scores items: nothing of it would learn")
        model.attach_user_model(self.user_model(model))

    def trainable(self, name: str) -> bool:
        return is_attached(name)
