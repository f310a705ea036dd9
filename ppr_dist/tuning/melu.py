"""MeLU for clicks (Lee et al., "MeLU: Meta-Learned User Preference Estimator for Cold-Start Recommendation", KDD 2019).

As published, a perceptron is adapted to each user by gradient steps on what is known of them, and trained so that the
adapted one predicts what comes next (Algorithm 1); embeddings are not adapted. What differs from the published model,
which predicts a rating from user and item vectors: the perceptron makes a user vector of the profile and the clicked
items' mean vector, so that a dot product ranks the whole catalogue; the local loss is a softmax of the clicked items
against reference items in place of squared errors of ratings; and no second derivative is taken.

Shapes: P contexts, x features, D width, K reference items.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.counter_random import integers
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.packed_sequences import PackedSequences
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.user_model import UserModelMethod

_REFERENCE = 51  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """MeLU's perceptron and its local steps. Defaults are those of the public code (hoyeoplee/MeLU)."""

    hidden: int = 64
    """Units of each of the two hidden layers."""
    local_lr: float = 5e-6
    """α, the learning rate of a local step. Beside item vectors trained by another model it wants to be far larger."""
    local_steps: int = 1
    """Gradient steps on a user's clicks."""
    references: int = 256
    """Items, drawn once by ``train.seed``, against which clicked items are told in a local step."""

    def __post_init__(self) -> None:
        require_positive(self, "melu", "hidden", "references")
        if self.local_lr < 0 or self.local_steps < 0:
            raise UserError("melu.local_lr and melu.local_steps must not be negative")


class MeLU(UserModelMethod):
    """A perceptron over profile and clicks, adapted to each user."""

    section = Settings
    profile_uses = ("melu",)

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part("melu", Settings)

    @classmethod
    def reference_items(cls, config: Config, catalogue: Catalogue) -> tuple[int, ...]:
        each = np.arange(config.part("melu", Settings).references)
        return tuple(np.unique(integers(catalogue.items, config.train.seed, _REFERENCE, each)).tolist())

    def user_model(self, model: SequentialModel) -> nn.Module:
        references = len(self.reference_items(self.config, self.catalogue))
        temperature = self.config.loss.temperature
        return Perceptron(self.features, model.dim, self.settings, references, temperature, normalize=model.normalize)


class Perceptron(nn.Module):
    """A user vector from a profile and clicked items, by weights adapted to that user."""

    def __init__(
        self, features: int, dim: int, settings: Settings, references: int, temperature: float, *, normalize: bool
    ) -> None:
        super().__init__()
        self.settings, self.references, self.temperature = settings, references, temperature
        self.dim, self.normalize = dim, normalize
        self.net = _net(features + dim, settings.hidden, dim)
        # What is computed with given weights; in a tuple, so that it is no module of the engine, whose hooks would ask
        # for weights of its own.
        with torch.device("meta"):
            self._form = (_net(features + dim, settings.hidden, dim),)

    def forward(self, items: Tensor, batch: Batch, profiles: dict[str, Tensor]) -> Tensor:
        """User vectors of a batch's targets [P, D], each adapted to the clicks before it, and to nothing without any.

        Args:
            items: vectors of batch.item_ids, then of the reference items, as they are scored [U + K, D].
        """
        history = batch.history
        sequences = PackedSequences(history.lengths, history.buckets)
        sums = [padded.cumsum(1) for padded in sequences.pad(F.embedding(history.items, items))]
        means = sequences.unpad(sums) / (sequences.position + 1)[:, None]
        mean = sequences.after(means, batch.user_rows, batch.context_lengths)
        x = torch.cat([*(p.index_select(0, batch.user_rows) for p in profiles.values()), mean], 1)
        # One context of nothing more: a rank may have none, and vmap wants one.
        x, mean, clicks = (F.pad(each, (0, 0) * (each.dim() - 1) + (0, 1)) for each in (x, mean, batch.context_lengths))
        layers = [n for n, layer in enumerate(self.net) if isinstance(layer, nn.Linear)]
        weights = {f"{n}.{name}": getattr(self.net[n], name) for n in layers for name in ("weight", "bias")}
        steps = self._local_steps(weights, x, mean, clicks, items[len(items) - self.references :])
        # First order: how a step came about has no gradient.
        adapted = {name: weight + steps[name] for name, weight in weights.items()}
        user: Tensor = vmap(self._user)(adapted, x)
        return user[:-1]

    @torch.no_grad()
    def _local_steps(
        self, weights: dict[str, Tensor], x: Tensor, mean: Tensor, clicks: Tensor, references: Tensor
    ) -> dict[str, Tensor]:
        """What the local steps add to each weight, [P, …]; 0 where there are no clicks."""
        rate = self.settings.local_lr * (clicks > 0).to(x.dtype)
        steps = {name: weight.detach().new_zeros(len(x), *weight.shape) for name, weight in weights.items()}
        for _ in range(self.settings.local_steps):
            adapted = {name: weight + steps[name] for name, weight in weights.items()}
            gradients = vmap(grad(self._local_loss), (0, 0, 0, None))(adapted, x, mean, references)
            for name, gradient in gradients.items():
                steps[name] = steps[name] - rate.view(-1, *[1] * (gradient.dim() - 1)) * gradient
        return steps

    def _local_loss(self, weights: dict[str, Tensor], x: Tensor, mean: Tensor, references: Tensor) -> Tensor:
        """Mean over one user's clicks of −log softmax against the reference items, up to a constant.

        The logits of the clicks enter by their mean alone, which is that of the mean vector [D].
        """
        user = self._user(weights, x)
        return torch.logsumexp(references @ user / self.temperature, 0) - user @ mean / self.temperature

    def _user(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        """[x] → [D]."""
        user: Tensor = functional_call(self._form[0], weights, (x,))
        return F.normalize(user, dim=-1) if self.normalize else user

    def flops(self, contexts: float) -> float:
        """Forward and backward; a local step is a forward and a backward pass too."""
        weights = sum(weight.numel() for weight in self.net.parameters())
        local = self.settings.local_steps * (weights + self.references * self.dim)
        return 2.0 * 3 * (contexts + 1) * (weights + local)


def _net(inputs: int, hidden: int, out: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)]
    return nn.Sequential(*layers)
