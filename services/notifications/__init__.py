"""Notifications: what you get told.

Owns: each person's inbox and what they want to be mailed, in SQL; the mails that are to be sent, not the addresses.
Publishes: nothing, but for hints between its own replicas. Consumes: `orders.events`, `identity.events`, and
revocations, through libs/rescind. Asks identity where a person can be reached.
Never: shows one person's inbox to another, loses an event or tells of it twice, writes to a disabled account.

`domain` is what people are told, `words` how, `reactions` when; `storage` the inbox and `mail_queue` the mails in SQL;
`service` what people can do with their inbox; `channels` how they hear of it, live and by mail; `rest`, `streams` and
`rpc` the ways in, `app` the wiring.
"""
