"""Whoever stops a service waits as long as its stop may take; a service that is killed in it repeats a mail."""

import re
from pathlib import Path

from devstack.process import STOP_SECONDS
from identity.people.post import STOPPING
from notifications.channels.email import Pace
from servicekit.lifecycle import GRACE
from servicekit.mail import DEADLINE

COMPOSE = Path(__file__).parents[3] / "docker-compose.yml"
LONGEST = 2 * GRACE + max(STOPPING, Pace().stopping)  # HTTP, then gRPC, then what runs beside them


def test_a_stop_outlives_a_delivery() -> None:
    assert min(STOPPING, Pace().stopping) > DEADLINE


def test_both_ways_to_run_it_outwait_a_stop() -> None:
    (in_compose,) = re.findall(r"stop_grace_period: (\d+)s", COMPOSE.read_text())
    assert min(int(in_compose), STOP_SECONDS) > LONGEST
