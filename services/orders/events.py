"""What orders tells: one event for each change of an order, in the transaction that makes the change."""

from google.protobuf.message import Message
from sqlalchemy import Connection

from contracts.orders.v1 import events_pb2 as pb
from contracts.orders.v1.money_pb2 import Money as MoneyMessage
from eventlog import Outbox
from orders.domain import Line, Money, Order, Owner, Status

STREAM = "orders.events"
# Nothing is forgotten that these groups have not seen, even before they exist.
READERS = ("notifications",)


def tell(outbox: Outbox, tx: Connection, order: Order, by: Owner) -> None:
    """Tells what `order` has just become; `by` is whoever changed it."""
    outbox.append(tx, _event(order, by), aggregate=order.id, at=order.updated_at)


def _event(order: Order, by: Owner) -> Message:
    named = {"order_id": order.id, "owner": order.owner}
    match order.status:
        case Status.PLACED:
            return pb.OrderPlaced(**named, lines=[_line(line) for line in order.lines], total=money(order.total))
        case Status.CONFIRMED:
            return pb.OrderConfirmed(**named)
        case Status.SHIPPED:
            return pb.OrderShipped(**named, tracking_number=order.tracking_number)
        case Status.DELIVERED:
            return pb.OrderDelivered(**named)
        case Status.CANCELLED:
            reason = "CANCELLED_BY_OWNER" if by == order.owner else "CANCELLED_BY_SHOP"
            return pb.OrderCancelled(**named, cancelled_by=by, reason=reason)


def money(amount: Money | None) -> MoneyMessage | None:
    """An amount as it travels."""
    return None if amount is None else MoneyMessage(minor_units=amount.minor_units, currency=amount.currency)


def _line(line: Line) -> pb.OrderLine:
    return pb.OrderLine(sku=line.sku, quantity=line.quantity, name=line.name, unit_price=money(line.unit_price))
