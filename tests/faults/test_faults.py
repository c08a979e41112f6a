"""The short form of the faults: a few kills, stops, damages, full disks and hostile files, all of them survived."""

import os
import re

from tests import fresh


def test_a_few_faults_of_each_kind_are_survived() -> None:
    # a process of its own, because its children are forks of it
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = fresh.run(["-m", "tests.faults", "short", "--pipeline", "aps"], env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [tuple(map(int, found)) for found in re.findall(r"(\d+) tried, (\d+) survived", done.stdout)]
    assert len(counts) == 15 and all(tried == survived > 0 for tried, survived in counts)
    assert sum(tried for tried, _ in counts) > 1000
