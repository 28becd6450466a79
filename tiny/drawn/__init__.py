"""The drawn world: scenes, how they are drawn, and the questions about them. Imports nothing of the other rooms."""
