"""A pod that serves /metrics over TLS with a certificate of its own, and counts its connections there."""

import http.server
import ssl
import sys

certificate, key, address = sys.argv[1:]
host, port = address, 0


class Pod(http.server.ThreadingHTTPServer):
    address_family = 10 if ":" in host else 2  # AF_INET6, AF_INET
    daemon_threads = True
    connections = 0

    def process_request(self, request, client_address):
        Pod.connections += 1
        super().process_request(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = f"pod_up 1\npod_connections {Pod.connections}\n# {'x' * 16384}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


pod = Pod((host, port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
pod.socket = context.wrap_socket(pod.socket, server_side=True, do_handshake_on_connect=False)
print(f"listening on port {pod.server_address[1]}", file=sys.stderr, flush=True)
pod.serve_forever()
