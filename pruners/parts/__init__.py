"""What methods and families are built from: scores, budgets, schedules, ways to choose; what a vision tower, its
patches and a picture's canvas are. Functions of tensors and values, without a model.
"""
