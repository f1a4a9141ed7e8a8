"""Notifications: what you get told.

Owns: each person's inbox, in SQL, and what they want to be mailed.
Publishes: nothing. Consumes: `orders.events`, `identity.events`, and revocations, through libs/rescind.
Never: shows one person's inbox to another, and never loses an event or tells of it twice.
"""
