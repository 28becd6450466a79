"""What methods are built from: scores, budgets, schedules, ways to choose. Functions of tensors, without a model."""
