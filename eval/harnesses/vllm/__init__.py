"""A plugin for vLLM: its own models with pruned pictures. docs/serving.md says how it is switched on.

settings   what a server or a request asks for, one small JSON (no torch, no vLLM)
plugin     the entry point
pruning    a method, a debias and a model family, made of those settings; how many tokens a picture keeps
processor  pictures made ready as our adapters do it, and placeholders for the tokens that will be left
tower      what a vision tower in vLLM knows of a picture
positions  where the tokens that are left stand in the prompt
scout      the first layers of vLLM's decoder, run once over the prompt and the whole picture
llava, ... the models
"""
