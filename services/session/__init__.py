"""Session: what you hold. Browsers get one opaque cookie; everything else stays in here.

Owns: browser sessions, in Redis, each with its refresh token, sealed.
Publishes: nothing. Consumes: revocations, through libs/rescind: what they name is gone from here at once.
Never: lets a token reach a browser, a log or a URL, and never forwards what is not on its list.
"""
