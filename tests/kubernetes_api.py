"""A cluster of one node at one address, over TLS: its API server, which lists the objects in a file and the Services of
the namespace default, and its kubelet.

A request without the token `token` gets 401. Every other request is logged.
"""

import http.server
import json
import ssl
import sys
import time

certificate, key, host, file = sys.argv[1:]


class Server(http.server.ThreadingHTTPServer):
    address_family = 10 if ":" in host else 2  # AF_INET6, AF_INET
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if self.headers["Authorization"] != "Bearer token":
            self.answer(401, {"kind": "Status", "status": "Failure", "code": 401})
            return
        # In one write, because requests are handled in parallel.
        sys.stderr.write(f"GET {path}\n")
        if path.startswith("/metrics"):
            self.answer(200, f'of_the_node{{path="{path}"}} 1\n')
        elif "sendInitialEvents=true" in query:
            # The response of an API server without the feature WatchList. Clients then list.
            self.answer(422, {"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422})
        elif "watch=" in query:
            self.watch()
        else:
            self.answer(200, objects(path.rpartition("/")[2]))

    def watch(self):
        """Holds the watch open: no object ever changes."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(600)

    def answer(self, status, body):
        if isinstance(body, dict):
            body, kind = json.dumps({"apiVersion": "v1", **body}), "application/json"
        else:
            kind = "text/plain; version=0.0.4"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def objects(resource):
    kinds = {"pods": "PodList", "nodes": "NodeList", "services": "ServiceList", "endpoints": "EndpointsList"}
    of_services = {"services": service, "endpoints": endpoints}
    if resource in of_services:
        items = [of_services[resource](name) for name in ("kubernetes", "other")]
    else:
        items = json.load(open(file))[resource]
    for node in items if resource == "nodes" else []:
        node["status"] = {
            "addresses": [{"type": "InternalIP", "address": host}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_address[1]}},
        }
    return {"kind": kinds[resource], "metadata": {"resourceVersion": "1"}, "items": items}


def service(name):
    ports = [{"name": port, "port": 443, "protocol": "TCP"} for port in ("https", "other")]
    return {"metadata": {"name": name, "namespace": "default", "uid": f"service-{name}"}, "spec": {"ports": ports}}


def endpoints(name):
    """Returns the endpoints of a Service, all at the address of the API server."""
    port = server.server_address[1]
    ports = [{"name": "https", "port": port, "protocol": "TCP"}, {"name": "other", "port": port, "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"endpoints-{name}"},
        "subsets": [{"addresses": [{"ip": host}], "ports": ports}],
    }


server = Server((host, 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(f"listening on port {server.server_address[1]}", file=sys.stderr, flush=True)
server.serve_forever()
