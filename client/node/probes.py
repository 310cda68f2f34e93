"""Single questions to a host: its addresses, whether it speaks plain HTTP, a TLS handshake."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name.
_NO_CHECK_TIME = 0x200000


def lookup(host: str, port: int, limit_s: float) -> list[str]:
    """Addresses of a host; in a thread, because the system's resolver knows no time limit."""
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(item[4][0]) for item in entries)))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def speaks_plain_http(connect: Callable[[], socket.socket]) -> bool:
    """Whether it answers HTTP without TLS."""
    try:
        with connect() as stream:
            stream.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return stream.recv(5) == b"HTTP/"
    except OSError:
        return False


def trusting(root: x509.Certificate) -> ssl.SSLContext:
    """As Flower's SuperNode has it, but dates are left to the row `expiry`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=root.public_bytes(Encoding.DER))
    context.verify_flags |= _NO_CHECK_TIME
    return context


def trusting_anyone() -> ssl.SSLContext:
    """To see a certificate, whoever signed it: nothing is sent and nothing believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def handshake(
    context: ssl.SSLContext, connect: Callable[[], socket.socket], host: str
) -> ssl.SSLSocket:
    """TLS on a new connection, whose certificate is held against the host's name."""
    stream = connect()
    try:
        return context.wrap_socket(stream, server_hostname=host)
    except BaseException:
        stream.close()
        raise
