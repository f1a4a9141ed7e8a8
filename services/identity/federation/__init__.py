"""federation: other providers that vouch for people. Any OpenID Connect provider by configuration, and GitHub.

providers   which ones, and the presets
upstream    one conversation with a provider: where to send the person, what it says of them, and whether to believe it
service     who that is here: an account that is linked, or a mail that proves the address first
pages       the routes
"""
