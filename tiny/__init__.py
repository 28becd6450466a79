"""The embedded default: a small world of pictures, clips and questions, and the models trained on it."""
