"""Parses messages with h11. Reads a line for each, "request" or "answer" and its bytes in base64. Prints a line for
each: "error" and the reason, "more", or "head" and its contents, in hexadecimal words."""

import base64
import sys

import h11


def read(kind, data):
    if kind == "request":
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    else:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        return "error " + str(error).replace("\n", " ")
    if event is h11.NEED_DATA:
        return "more"
    if isinstance(event, h11.Request):
        start = [event.method, event.target, event.http_version]
    elif isinstance(event, (h11.Response, h11.InformationalResponse)):
        start = [b"%d" % event.status_code, event.http_version]
    else:
        return "error " + type(event).__name__
    words = start + [part for field in event.headers for part in field]
    return "head " + " ".join("." + word.hex() for word in map(bytes, words))


for line in sys.stdin:
    kind, data = line.split(" ", 1)
    print(read(kind, base64.b64decode(data)))
