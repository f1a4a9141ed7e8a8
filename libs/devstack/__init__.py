"""The whole system on one machine with nothing installed, and the story that shows what it does.

`stack` runs it embedded: a real Valkey, identity and orders as processes, SQLite files. `compose` speaks to the same
system under docker compose. Both are a `Target`: addresses, and faults on command. `story` is told against a target.
"""
