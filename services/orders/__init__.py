"""Orders: what you do with it. The service to read first.

Owns: orders and the catalogue with its stock, in SQL; each order belongs to the person who placed it.
Publishes: `orders.events`, one event for each change of an order, through an outbox in the same transaction.
Consumes: revocations, through libs/rescind.
Never: asks identity whether a token is good while it knows for itself, never shows one person's order to another, and
needs no Redis to take an order.

`domain` is what an order is, `service` what people can do with it, `backoffice` what the shop does, `watching` live
views (with `wakeups` between replicas), `events` what is told, `storage` where it is kept, `rest` and `rpc` the two
ways in, `app` the wiring.
"""
