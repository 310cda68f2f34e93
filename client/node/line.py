"""A TCP connection to the centre as Flower's HTTP client makes it: direct, or by a proxy."""

from __future__ import annotations

import base64
import re
import socket
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from client.node.checks import Result

_NEEDS_CREDENTIALS = 407
_STATUS = re.compile(rb"[0-9]{3}")
_PORTS = {"http": 80, "https": 443}
_MOST_BYTES = 2**14


class ProxyRefusedError(OSError):
    """A proxy does not connect to the centre; `status` is its answer's, 0: it is none of HTTP."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"the proxy answers {status}" if status else "no answer in HTTP")


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy of this machine's environment.

    Attributes:
        scheme: How it is spoken to; "http" alone can be tried here.
        host: Its name.
        port: Its port.
        authorization: The header's value; empty: none. It is shown nowhere.
    """

    scheme: str
    host: str
    port: int
    authorization: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def proxy_to(host: str, port: int) -> Proxy | None:
    """The proxy that HTTPS_PROXY or ALL_PROXY names for this host, unless NO_PROXY has the host."""
    proxies = urllib.request.getproxies()
    named = proxies.get("https") or proxies.get("all")
    passed_by = {name.strip() for name in proxies.get("no", "").split(",")}
    own = {f"{host}:{port}", f"https://{host}", f"https://{host}:{port}"}
    if not named or urllib.request.proxy_bypass(host) or passed_by & own:
        return None
    try:
        url = urlsplit(named if "://" in named else f"http://{named}")
        its_port = url.port or _PORTS.get(url.scheme, 1080)
    except ValueError:  # brackets that do not close, no port of that number
        return Proxy(scheme="http", host="", port=0)
    user = ""
    if url.username is not None:
        credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
        user = "Basic " + base64.b64encode(credentials.encode()).decode("ascii")
    return Proxy(scheme=url.scheme, host=url.hostname or "", port=its_port, authorization=user)


def connect(address: tuple[str, int], limit_s: float, proxy: Proxy | None = None) -> socket.socket:
    """A connection to the address.

    Raises:
        ProxyRefusedError: The proxy is there and does not connect.
        OSError: There is none.
    """
    if proxy is None:
        return socket.create_connection(address, limit_s)
    if not proxy.host:
        raise OSError("the environment's HTTPS_PROXY or ALL_PROXY is no URL")
    if proxy.scheme != "http":
        raise OSError(f"a proxy of {proxy.scheme} is not tried here")
    stream = socket.create_connection((proxy.host, proxy.port), limit_s)
    try:
        _ask(stream, address, proxy)
    except BaseException:
        stream.close()
        raise
    return stream


def no_way(error: OSError, proxy: Proxy, host: str, port: int) -> Result:
    """Why the proxy leads nowhere; Flower's HTTP client, which heeds it too, comes no further."""
    direct = f"export NO_PROXY={host} where a direct connection is allowed"
    if not isinstance(error, ProxyRefusedError):
        finding = f"the proxy {proxy} cannot be reached: {error.strerror or error}"
        return "failed", finding, f"correct HTTPS_PROXY, or {direct}"
    if error.status == _NEEDS_CREDENTIALS:
        hint = "write user and password into HTTPS_PROXY, before the @ of http://...@HOST:PORT"
        return "failed", f"the proxy {proxy} asks who you are", f"{hint}, or {direct}"
    finding = f"the proxy {proxy} does not connect to {host}:{port}: {error}"
    hint = f"have it allow CONNECT to {host}:{port}, without TLS inspection"
    return "failed", finding, f"{hint}, or {direct}"


def _ask(stream: socket.socket, address: tuple[str, int], proxy: Proxy) -> None:
    host, port = address
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii", "backslashreplace"))
    head = b""
    # Byte by byte: what follows the head is the centre's.
    while not head.endswith(b"\r\n\r\n") and len(head) < _MOST_BYTES:
        byte = stream.recv(1)
        if not byte:
            break
        head += byte
    words = head.split(b" ", 2)
    known = words[0].startswith(b"HTTP/1.") and len(words) > 1 and _STATUS.fullmatch(words[1])
    status = int(words[1]) if known else 0
    if not 200 <= status < 300:
        raise ProxyRefusedError(status)
