"""GRU4Rec's states are those of each sequence by itself."""

from __future__ import annotations

import torch

from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.model.backbones.gru4rec import GRU4Rec, Settings
from ppr_dist.model.packed_sequences import PackedSequences


def test_states_are_those_of_each_sequence_alone() -> None:
    torch.manual_seed(0)
    model = GRU4Rec(Settings(layers=2, hidden=6), dim=4, max_length=9, dropout=0.3).eval()
    lengths = torch.tensor([5, 3, 3, 1, 0])
    x = torch.randn(int(lengths.sum()), 4)
    states = model(x, PackedSequences(lengths, bucket_by_length(lengths.numpy(), bucket_tokens=4)))
    for alone, together in zip(x.split(lengths.tolist()), states.split(lengths.tolist()), strict=True):
        hidden = alone
        for layer in model.layers:
            state, outputs = torch.zeros(6), []
            for step in hidden:  # Cho et al. 2014, as torch.nn.GRUCell has it
                gates = layer.weight_ih_l0 @ step + layer.bias_ih_l0, layer.weight_hh_l0 @ state + layer.bias_hh_l0
                (r_i, z_i, n_i), (r_h, z_h, n_h) = (gate.chunk(3) for gate in gates)
                reset, update = torch.sigmoid(r_i + r_h), torch.sigmoid(z_i + z_h)
                state = (1 - update) * torch.tanh(n_i + reset * n_h) + update * state
                outputs.append(state)
            hidden = torch.stack(outputs) if outputs else torch.zeros(0, 6)
        torch.testing.assert_close(together, hidden @ model.out.weight.T + model.out.bias)
