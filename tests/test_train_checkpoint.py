import pytest
import torch
from test_train_loop import blank

from train.checkpoint import CheckpointError, load, save

pytestmark = pytest.mark.usefixtures("small_networks")


def test_round_trip_from_file_and_folder(tmp_path):
    saved = blank()
    save(saved, tmp_path / "checkpoint.pt")
    for path in (tmp_path, tmp_path / "checkpoint.pt"):
        loaded = load(path)
        assert (loaded.config, loaded.classes, loaded.hold_out) == (saved.config, saved.classes, None)
        assert all(torch.equal(loaded.ema[name], tensor) for name, tensor in saved.ema.items())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_bad_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint, expected the folder of an edge-train fit"):
        load(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="no readable checkpoint: another kind of file, or one that was cut off"):
        load(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="got schema None, expected 'edge-checkpoint/2'"):
        load(tmp_path)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "checkpoint.pt")  # a pickled module: loading it could run code
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load(tmp_path)


def test_a_run_older_than_profiles_has_none(tmp_path):
    save(blank(), tmp_path / "checkpoint.pt")
    values = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del values["profile"]
    torch.save(values, tmp_path / "checkpoint.pt")
    assert load(tmp_path).profile is None
    torch.save({**values, "profiles": None}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="got schema"):
        load(tmp_path)


def test_a_run_of_an_earlier_version_has_one_field_more(tmp_path):
    save(blank(), tmp_path / "checkpoint.pt")
    values = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**values, "swa": {}}, tmp_path / "checkpoint.pt")
    assert load(tmp_path).recipe == "smoke"
