"""The folder of a run."""

import json

import pytest

from configs import addition
from experiments.runs import folder, identity


def test_check_workdir(tmp_path):
    config = identity.to_dict(addition.get_config())
    assert not folder.check(tmp_path / "new", config)
    assert not folder.check(tmp_path, config)  # empty
    (tmp_path / "config.json.tmp").write_text("{")  # killed while writing
    assert not folder.check(tmp_path, config)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no config.json.*notes.txt"):
        folder.check(tmp_path, config)
    with pytest.raises(ValueError, match="got the file"):
        folder.check(tmp_path / "notes.txt", config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert folder.check(tmp_path, config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        folder.check(tmp_path, config)
