"""The story that `make demo` tells: sign in, call, take back in every way, and go on when things break.

`acts`, `events`, `browsing` and `oauth` are its steps: each proves what it says or fails. `scene` holds what they
share, `live` reads the streams, `table` shows it all.
"""

from collections.abc import Awaitable, Callable

from devstack.story import acts, browsing, events, oauth
from devstack.story.scene import Scene, Step, Unexpected, opened
from devstack.story.table import table

Act = Callable[[Scene], Awaitable[None]]
# What breaks things comes last: everything before it finds a system that is well.
ACTS: tuple[Act, ...] = (
    acts.signing_in,
    acts.forgeries,
    acts.six_kinds,
    events.live_streams,
    events.receipts,
    browsing.in_a_browser,
    oauth.device,
    oauth.third_party,
    oauth.refresh_reuse,
    oauth.acting_for_a_person,
    oauth.step_up,
    events.poison,
    acts.redis_comes_back_empty,
    acts.orders_restarts_without_redis,
    acts.revoking_without_redis,
    acts.identity_dies,
)

__all__ = ["ACTS", "Scene", "Step", "Unexpected", "opened", "table"]
