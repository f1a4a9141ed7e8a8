"""Orders: what you do with it. The service to read first.

Owns: orders, in SQL; each belongs to the person who placed it.
Publishes: nothing yet. Consumes: revocations, through libs/rescind.
Never: asks identity whether a token is good while it knows for itself, and never shows one person's order to another.

`domain` is what an order is, `service` the four things that can be done, `storage` where they are kept, `rest` and
`rpc` the two ways in, `app` the wiring.
"""
