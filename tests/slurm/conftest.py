import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import DAEMONS, Cluster, Pair

Scenario = Callable[[Pair], Any]


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Scenario, Future[Any]]]:
    """Play all scenarios that the tests' markers name at once, as they mostly wait."""
    if missing := [daemon for daemon in DAEMONS if shutil.which(daemon) is None]:
        pytest.skip(f"{', '.join(missing)} not found: they come with slurm-wlm and munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM starts jobs as other users, and so needs root")
    markers = [marker for item in request.session.items for marker in item.iter_markers("slurm")]
    scenarios = list(dict.fromkeys(scenario for marker in markers for scenario in marker.args))
    base = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # short, for the path of a socket
    base.chmod(0o755)
    try:
        cluster = Cluster(base, pairs=len(scenarios))
        try:
            with ThreadPoolExecutor(len(scenarios)) as pool:
                pairs = [Pair(cluster, number, tmp_path_factory.mktemp("pair")) for number in range(len(scenarios))]
                yield {scenario: pool.submit(scenario, pair) for scenario, pair in zip(scenarios, pairs, strict=True)}
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(base)
