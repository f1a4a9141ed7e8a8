"""What alembic runs; the connection and the lock are servicekit's."""

from notifications import mail_queue  # its table is the one that storage does not declare
from servicekit.migrations import run_from_env

run_from_env(mail_queue.mails.metadata)
