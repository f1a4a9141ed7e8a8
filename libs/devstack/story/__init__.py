"""The story that `make demo` tells: sign in, call, take back in six ways, and go on when things break.

`acts` are its steps: each proves what it says or fails. `scene` holds what they share, `table` shows them.
"""

from devstack.story.acts import ACTS
from devstack.story.scene import Scene, Step, Unexpected, opened
from devstack.story.table import table

__all__ = ["ACTS", "Scene", "Step", "Unexpected", "opened", "table"]
