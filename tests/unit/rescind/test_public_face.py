"""What the library shows to its users cannot drift."""

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import rescind
from rescind import errors

EXTRAS = ("fastapi", "starlette", "grpc", "redis", "jwt", "google")


def test_what_is_exported_exists_is_sorted_and_is_documented() -> None:
    constants = [name for name in rescind.__all__ if name.isupper() and name != "BOUNDED"]
    assert constants == ["BEST_EFFORT", "STRICT"]
    assert rescind.__all__ == sorted(rescind.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in set(rescind.__all__) - set(constants):
        assert inspect.getdoc(getattr(rescind, name)), name


def test_every_error_is_exported_and_drawn_in_the_tree_with_its_parents() -> None:
    tree = errors.__doc__ or ""
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if not issubclass(error, errors.RescindError):
            continue
        assert name in rescind.__all__, name
        (line,) = (line for line in tree.splitlines() if line.strip(" │├└─").split(" ")[0] == name)
        depth = (len(line) - len(line.lstrip(" │├└─"))) // 4
        assert depth == len(error.__mro__) - len(errors.RescindError.__mro__) + 1, name


def test_the_reasons_are_stable() -> None:
    reasons = {
        name: error.reason
        for name, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.RescindError)
    }
    assert reasons == {
        "CannotTell": "VERIFIER_UNAVAILABLE",
        "ExpiredToken": "TOKEN_EXPIRED",
        "InsufficientScope": "INSUFFICIENT_SCOPE",
        "KeysUnavailable": "KEYS_UNAVAILABLE",
        "MalformedToken": "TOKEN_MALFORMED",
        "MissingToken": "TOKEN_MISSING",
        "NotFresh": "VERIFIER_NOT_FRESH",
        "OtherHolder": "TOKEN_OF_ANOTHER",
        "RescindError": "INTERNAL",
        "RevokedToken": "TOKEN_REVOKED",
        "ServerStopping": "SERVER_STOPPING",
        "StepUpRequired": "INSUFFICIENT_USER_AUTHENTICATION",
        "TokenRefused": "TOKEN_REFUSED",
        "UnknownKey": "TOKEN_UNTRUSTED",
        "UntrustedToken": "TOKEN_UNTRUSTED",
    }


def test_it_can_be_imported_without_any_extra() -> None:
    program = f"""
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {EXTRAS!r}:
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        import rescind
        print(rescind.Guard.__name__)
    """
    library = str(Path(rescind.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env={"PYTHONPATH": library}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("Guard\n", "")
