"""Pods on one listener for each argument KIND=ADDRESS after the first, which is a folder with a page and a certificate.

The kinds `http` and `tls` serve pages; `closing` closes each connection after its first bytes. The pages:

/metrics counts the listener's connections; /page is the folder's file, with the listener's port; /redirect?to=URL
redirects to URL; /slow never responds.
"""

import http.server
import socket
import socketserver
import ssl
import sys
import threading
import urllib.parse

folder, *listeners = sys.argv[1:]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, handler):
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.connections = 0
        super().__init__((address, 0), handler)

    def process_request(self, request, client_address):
        self.connections += 1
        super().process_request(request, client_address)


class Serving(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        target = urllib.parse.urlsplit(self.path)
        if target.path == "/slow":
            self.connection.recv(1)  # until the client gives up
            self.close_connection = True
        elif target.path == "/redirect":
            [to] = urllib.parse.parse_qs(target.query)["to"]
            self.send_response(302)
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif target.path == "/page":
            with open(f"{folder}/page") as page:
                self.answer(f"{page.read()}pod_port {self.server.server_address[1]}\n")
        else:
            self.answer(f"pod_up 1\npod_connections {self.server.connections}\n# {'x' * 16384}\n")

    def answer(self, page):
        page = page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


class Closing(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(1)
        self.request.shutdown(socket.SHUT_WR)
        while self.request.recv(65536):  # unread bytes would turn the close into a reset
            pass


for listener in listeners:
    kind, address = listener.split("=")
    server = Server(address, Closing if kind == "closing" else Serving)
    if kind == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever).start()
    print(f"listening on port {server.server_address[1]}", file=sys.stderr, flush=True)
