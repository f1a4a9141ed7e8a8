"""admin: what whoever looks after this system sees and does. Every act is in the audit log.

directory   finding people and clients
registry    registering clients, and their secrets
pages       the pages under /admin: people, clients, keys, the audit log
proof       proving again who it is, before an act that cannot be taken back
rpc         AdministrationService
"""
