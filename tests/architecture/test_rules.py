"""No RPC is open by oversight: every one that a proto declares has a rule, and every rule has such an RPC."""

import importlib
import pkgutil

import contracts
import identity.authority
import notifications.rpc
import orders.rpc
import session.rpc

RULES = {
    "contracts.identity.v1": identity.authority.RULES,
    "contracts.notifications.v1": notifications.rpc.SCOPES,
    "contracts.orders.v1": orders.rpc.SCOPES,
    # No scope means anything there: the servicer asks who the caller is (tests/integration/test_session_rpc.py).
    "contracts.session.v1": dict.fromkeys(session.rpc.METHODS),
}


def declared() -> dict[str, set[str]]:
    """The full method names of every service in the generated contracts, by package."""
    found: dict[str, set[str]] = {}
    for module in pkgutil.walk_packages(contracts.__path__, "contracts."):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(module.name).DESCRIPTOR
            for service in descriptor.services_by_name.values():
                methods = {f"/{service.full_name}/{method.name}" for method in service.methods}
                found.setdefault(descriptor.package, set()).update(methods)
    return found


def test_every_rpc_has_a_rule_and_every_rule_an_rpc() -> None:
    assert declared() == {package: set(rules) for package, rules in RULES.items()}


def test_every_rule_asks_for_something() -> None:
    for method, rule in identity.authority.RULES.items():
        assert rule.scopes or rule.permissions, method
    for method, scopes in {**orders.rpc.SCOPES, **notifications.rpc.SCOPES}.items():
        assert scopes, method
