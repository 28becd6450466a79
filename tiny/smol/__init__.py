"""A LLaVA on a pretrained language model: its parts, folder, training and questions. Imports the other rooms."""
