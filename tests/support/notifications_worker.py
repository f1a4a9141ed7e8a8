"""Notifications as a process that tests kill: `python notifications_worker.py`, settings in its environment as always.

It hurries: what a dead one has left behind is taken over within seconds.
"""

from eventlog import Delays, Patience
from notifications.app import NAME, build
from notifications.channels.email import Pace
from notifications.settings import Settings
from servicekit.lifecycle import run
from servicekit.settings import load
from servicekit.telemetry import set_up_logging

if __name__ == "__main__":
    settings = load(Settings)
    set_up_logging(NAME, level="WARNING")
    patience = Patience(
        delays=Delays(first=0.05, longest=0.5, lease=2.0), handling=1.5, longest_pause=0.5, tidy=0.5, crashes=1000
    )
    run(NAME, lambda: build(settings, patience=patience, pace=Pace(lease=4.0, sending=1.0, poll=0.2)))
