"""What a test may need besides Python, whether this machine has it, and what to do when it does not.

A test that needs something missing is skipped, and the summary says so. In CI nothing may be skipped for that:
`RESCIND_REQUIRE=docker,browser,node` turns such a skip into a failure.
"""

import functools
import os
import shutil
import subprocess

import pytest

# The first that there is. The headless shell is the same engine without windows, and does a third less work.
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def _docker() -> str:
    if shutil.which("docker") is None:
        return "there is no Docker here"
    # Asked as a program: its Python library leaves a socket open when nobody answers, and warnings are errors here.
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        answered = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "no Docker engine answers"
    return "" if answered.returncode == 0 else "no Docker engine answers"


def chromium_path() -> str:
    """Where Chromium is; empty without one."""
    return next((path for name in _BROWSERS if (path := shutil.which(name))), "")


def _browser() -> str:
    return "" if chromium_path() else "there is no Chromium here"


def _node() -> str:
    lacking = [name for name in ("node", "npm") if not shutil.which(name)]
    return f"there is no {' and no '.join(lacking)} here" if lacking else ""


_PROBES = {"docker": _docker, "browser": _browser, "node": _node}


@functools.cache
def missing(requirement: str) -> str:
    """Why `requirement` cannot be had here; empty when it can."""
    return _PROBES[requirement]()


def need(requirement: str) -> None:
    """Goes on when `requirement` is there; otherwise skips the test, or fails it where RESCIND_REQUIRE says so."""
    if why := missing(requirement):
        _do_without(requirement, why)


def need_image(image: str) -> None:
    """Goes on when the Docker engine has `image` or can get it; otherwise as `need("docker")`."""
    need("docker")
    if why := _missing_image(image):
        _do_without("docker", why)


@functools.cache
def _missing_image(image: str) -> str:
    import docker

    client = docker.from_env(timeout=300)
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(image)
        except docker.errors.APIError:
            return f"the image {image} is not here and cannot be pulled"
    finally:
        client.close()
    return ""


def _do_without(requirement: str, why: str) -> None:
    if requirement in os.environ.get("RESCIND_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"RESCIND_REQUIRE={requirement}, but {why}", pytrace=False)
    pytest.skip(f"needs {requirement}: {why}")
