"""A pod with TLS whose bodies end with the connection, or a client that reads one, by Python's ssl.

`pod FOLDER ADDRESS`: the end is announced (close_notify) after /announced, and not after /silent; after /cut there is
an announced end in the middle of a chunk. `client CA URL...`: sends each URL's path by HTTP/1.0, and prints the number
of bytes of the body and `announced`, or the error.
"""

import socket
import ssl
import sys
import threading
import urllib.parse

PAGE = b"pod_up 1\n" * 4000


def respond(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    path = head.split(b" ")[1]
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")
    if path == b"/cut":
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + PAGE[:1000])
    else:
        connection.sendall(b"\r\n" + PAGE)
    try:
        if path != b"/silent":
            connection.unwrap()
        else:
            # What python calls shutdown ends only the socket.
            connection.shutdown(socket.SHUT_WR)
    except (ssl.SSLError, OSError):
        pass  # the other side may be gone
    connection.close()


def pod(folder, address):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/pod.crt", f"{folder}/pod.key")
    listener = socket.create_server((address, 0))
    print(f"listening on port {listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        accepted, _ = listener.accept()
        connection = context.wrap_socket(accepted, server_side=True)
        threading.Thread(target=respond, args=[connection], daemon=True).start()


def client(ca, *urls):
    for url in map(urllib.parse.urlsplit, urls):
        context = ssl.create_default_context(cafile=ca)
        with socket.create_connection((url.hostname, url.port), timeout=10) as plain:
            with context.wrap_socket(
                plain, server_hostname=url.hostname, suppress_ragged_eofs=False
            ) as connection:
                connection.sendall(f"GET {url.path} HTTP/1.0\r\n\r\n".encode())
                received, end = b"", "announced"
                try:
                    while piece := connection.recv(65536):
                        received += piece
                except OSError as error:
                    end = type(error).__name__
        print(len(received.partition(b"\r\n\r\n")[2]), end, flush=True)


{"pod": pod, "client": client}[sys.argv[1]](*sys.argv[2:])
