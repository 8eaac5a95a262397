"""Experiments: what is trained, how, and what of it is kept and drawn.

Folders stand in the order of the data's way: `data` and `tasks`, `models`, `training`,
`runs`, and above them the commands `sweep`, `reproduce` and `benchmark`.
"""
