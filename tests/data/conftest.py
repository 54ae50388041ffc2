from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test caches of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIGHTNING_GAN_CACHE", str(folder))
    return folder
