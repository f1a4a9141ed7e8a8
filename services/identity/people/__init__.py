"""people: what somebody does with their own account, before and after they are signed in.

storage     the tables: links that were mailed, mail that waits to be sent, who else vouches for somebody
links       a secret in a mail that works once
letters     what the mails say
post        the queue that mail waits in, and who sends it
service     the use cases: sign-up, reset, proof of an address
pages, account    the routes
"""
