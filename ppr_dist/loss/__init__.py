"""The longer formulas of objectives: pure functions of tensors, with their gradients."""
