"""Configs of the experiments; each file's `get_config` gives one."""
