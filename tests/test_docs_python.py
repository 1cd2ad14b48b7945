"""The blocks of docs/python.md, run as they stand."""

import re
from pathlib import Path

from sample_images import encoded, folder_of_photos, photo

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_blocks_run_in_their_order(tmp_path, monkeypatch, capsys):
    folder_of_photos(tmp_path / "photos", 3)
    (tmp_path / "photo.jpg").write_bytes(encoded(photo()))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert "not a known image format" in shown and "accuracy in V-VI" in shown and "B better" in shown
