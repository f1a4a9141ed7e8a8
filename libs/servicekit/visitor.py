"""Where a request came from, as far as it may be believed: an address, and what the browser called itself.

The address is the connection's own. What `X-Forwarded-For` says counts only when the connection comes from a proxy that
the settings name, and then only what such proxies wrote: the header is read from its end, up to the first address that
is no proxy's. Whatever a client wrote before it is never looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

LONGEST_USER_AGENT = 256  # characters
_MOST_HOPS = 16
# What is kept of an address: enough to tell a person "not from here", too little to tell who.
_KEPT_BITS = {4: 24, 6: 48}


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, before anybody has signed in. Each is empty when unknown."""

    address: str = ""
    user_agent: str = ""

    @property
    def network(self) -> str:
        """The address made coarse: its /24, or its /48."""
        if not self.address:
            return ""
        address = ip_address(self.address)
        return str(ip_network((address, _KEPT_BITS[address.version]), strict=False))


NOBODY_KNOWN = Visitor()


def visitor(peer: str, forwarded_for: Sequence[str], user_agent: str, trusted: Sequence[Network]) -> Visitor:
    """The visitor behind a connection from `peer`. `forwarded_for`: the X-Forwarded-For headers, in their order."""
    printable = "".join(sign for sign in user_agent if sign.isprintable())
    return Visitor(_address(peer, forwarded_for, trusted), printable[:LONGEST_USER_AGENT])


def counted_as(guest: Visitor) -> str:
    """Whom attempts are counted for: an IPv4 address, or the /64 that one IPv6 customer has."""
    if not guest.address:
        return "unknown"
    address = ip_address(guest.address)
    return str(address if address.version == 4 else ip_network((address, 64), strict=False))


def parse_networks(text: str) -> tuple[Network, ...]:
    """`10.0.0.0/8, fd00::/8`.

    Raises:
        ValueError: one of them is no network.
    """
    return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())


def _address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    seen = _parsed(peer)
    hops = [hop for header in forwarded_for for hop in header.split(",")]
    for hop in reversed(hops[-_MOST_HOPS:]):
        if seen is None or not any(seen in network for network in trusted):
            break
        named = _parsed(hop)
        if named is None:
            break  # a proxy of ours that names nobody: all that is known is the proxy
        seen = named
    return "" if seen is None else str(seen)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without a port behind it (RFC 7239 section 6)."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
