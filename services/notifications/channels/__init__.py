"""The ways in which people hear of what is in their inbox: `live` while they look on, `email` while they do not.

Neither holds anything: the inbox in SQL is the truth, `live` a hint that it has grown, `email` a reading from a queue
that lies beside it.
"""
